"""Everything attnengine raises on its own account.

AttnEngineError
├── CorpusError            the corpus cannot be read as asked
├── ModelError             the model folder or id cannot be loaded
│   └── UnsupportedModelError   loaded, but its attention cannot be captured faithfully
├── CaptureError           captured attention does not agree with the model's own
├── PlanError              a run cannot start or go on as asked
├── EmbeddingError         a head, or a run, has no joint cloud, or not the one asked for
└── RunFormatError         a folder is not a run, is damaged or of another version, or was made without what is asked

Argument mistakes are ValueError and TypeError as everywhere in Python. The command line prints any of these as one
line and exits with 2.
"""

from __future__ import annotations


class AttnEngineError(Exception):
    """Base of the errors attnengine raises: expected, got, and what to do, in one sentence or two."""


class CorpusError(AttnEngineError):
    """The corpus cannot be read as asked."""


class ModelError(AttnEngineError):
    """The model cannot be loaded."""


class UnsupportedModelError(ModelError):
    """The model loads, but its attention cannot be captured faithfully."""


class CaptureError(AttnEngineError):
    """What was captured does not agree with what the model computed."""


class PlanError(AttnEngineError):
    """A run cannot start, or cannot go on, as asked."""


class EmbeddingError(AttnEngineError):
    """A head, or a run, has no joint cloud of queries and keys, or not the one asked for."""


class RunFormatError(AttnEngineError):
    """A folder is not a run directory, is damaged, of a version this release does not read, or lacks what is asked."""
