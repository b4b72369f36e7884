"""What a view has at hand: the run, the state, a way to act, and words for the page's script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bokeh.document import Document
from bokeh.document.models import DocumentModelManager

from attnengine_explorer.heads_source import HeadsSource
from attnengine_explorer.run_data import RunData
from attnengine_explorer.shelf import Shelf
from attnengine_explorer.state import Action, ViewState


class Desk:
    """One per session. ``dispatch`` does what a person asked for; ``state`` is what is on the screen now; ``heads`` is
    the source of all heads; ``shelf`` has the session's sentences and does what takes long.

    ``tell(name, value)`` gives a JSON value to the page's script, where ``attnengine.on(name, …)`` receives it. Whoever
    changes models or tells something outside of a view's ``update`` (a job that is done) does so within ``batch()``.
    """

    def __init__(
        self,
        document: Document,
        run: RunData,
        state: ViewState,
        dispatch: Callable[[Action], None],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self.document = document
        self.run = run
        self.state = state
        self.dispatch = dispatch
        self.heads = HeadsSource(run, dispatch)
        self.shelf = Shelf(self)
        self._send = send
        self._told: dict[str, Any] = {}
        self._open = self._ending = False

    @property
    def drawing(self) -> bool:
        """Whether a change of a model is our own drawing and no act of the person: such changes are told to Python's
        listeners where a batch ends.
        """
        return self._open or self._ending

    def tell(self, name: str, value: Any) -> None:
        """Say ``value`` (JSON) to the script's room ``name``, with the batch that is open."""
        self._told[name] = value

    def say(self, name: str, value: Any) -> None:
        """Say ``value`` at once, or with the batch that is open. Cheap: no model may have changed beside."""
        self.tell(name, value)
        if not self._open:
            self._send(self._told)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send all changes within as one message, and look for new models once, if any model was exchanged."""
        if self._open:
            yield
            return
        self._open = True
        self.document.hold("combine")
        try:
            with looking_once(self.document.models):
                yield
            self._send(self._told)
        finally:
            self._open, self._ending = False, True
            self.document.unhold()
            self._ending = False

    def forget_told(self) -> None:
        """What was told has arrived: a page that is there needs it once."""
        self._told = {}


@contextmanager
def looking_once(models: DocumentModelManager) -> Iterator[None]:
    """Put off the search for models that come or go until the end, and leave it out where nothing asked for it.

    It walks through the whole document, 50 ms and more of a head switch. Bokeh's own ``freeze`` puts it off, too, but
    searches at the end whatever has happened.
    """
    asked = False

    def ask() -> None:
        nonlocal asked
        asked = True

    models.invalidate = ask
    try:
        yield
    finally:
        del models.invalidate
        if asked:
            models.invalidate()
