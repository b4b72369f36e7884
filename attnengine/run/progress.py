"""Progress of a run on the terminal: what is being done, tokens/s and time left; silent where no one looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(TextColumn):
    """Units per second, measured by Rich over the last seconds."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """``12,345 tokens/s``; empty until there is a speed."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="cyan")


class Reporter:
    """Says on stderr what happens; ``quiet`` says nothing but warnings."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def say(self, message: str) -> None:
        """One line about what is being done."""
        if not self.quiet:
            self.console.print(Text(message))

    def warn(self, message: str) -> None:
        """One line that a reader must not miss."""
        self.console.print(Text(f"warning: {message}", style="yellow"))

    @contextmanager
    def track(self, what: str, total: int | None, unit: str, done: int = 0) -> Iterator[Progress]:
        """A progress bar, without an end if ``total`` is None; advance it with ``bar.advance(bar.task_ids[0], n)``."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, disable=self.quiet) as bar:
            bar.add_task(what, total=total, completed=done, unit=unit)
            yield bar


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``: as exact as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
