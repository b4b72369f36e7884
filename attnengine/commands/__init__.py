"""The longer commands of the command line, a file each; part of the front door, like :mod:`attnengine.cli`."""
