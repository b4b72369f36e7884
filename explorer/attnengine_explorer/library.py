"""The runs of a server: opened once, shared by all its sessions, opened again when their folder has changed.

A folder that is damaged, foreign or not ready yet keeps its place: whoever opens it reads why, and the next look tries
again, so that a run that is mended or begins to have tables is there without a new start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnengine.errors import RunFormatError
from attnengine_explorer.run_data import RunData, stamp_of


class Library:
    """Runs by their number in the command line, which is ``run`` in a link.

    Raises RunFormatError, the first folder's, if none of the folders is a run that can be opened.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self._opened: dict[int, RunData] = {}
        problems = [problem for number in range(len(self.paths)) if (problem := self.problem(number))]
        if len(problems) == len(self.paths) and not any(map(is_going, self.paths)):
            raise problems[0]

    @property
    def names(self) -> list[str]:
        """What the page calls each run."""
        return [path.name or str(path) for path in self.paths]

    def open(self, number: int) -> RunData:
        """The run, as its folder is now; RunFormatError says why it cannot be shown."""
        opened = self._opened.get(number)
        if opened is None or opened.outdated:
            self._opened.pop(number, None)
            self._opened[number] = RunData(self.paths[number])
        return self._opened[number]

    def problem(self, number: int) -> RunFormatError | None:
        """Why a run cannot be shown, or None."""
        try:
            self.open(number)
        except RunFormatError as error:
            return error
        return None


def is_going(path: Path) -> bool:
    """Whether somebody works on the run in this folder, so that tables may come."""
    from attnengine.store import read_manifest

    try:
        return stamp_of(path) is not None and read_manifest(path)["status"] == "running"
    except RunFormatError:
        return False
