"""One open page: holds the state, turns acts into actions, and lets each view change what changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bokeh.document import Document

from attnengine.errors import AttnEngineError
from attnengine_explorer import url
from attnengine_explorer.atlas import neighbour
from attnengine_explorer.head_data import summary
from attnengine_explorer.page import Wire, facts, frame_variables, parse_act, template
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Action, Choose, Clear, History, SelectHead, ViewState, Visit, reduce
from attnengine_explorer.theme.colours import bokeh_theme
from attnengine_explorer.views import View
from attnengine_explorer.views.cloud import CloudView
from attnengine_explorer.views.neurons import NeuronsView
from attnengine_explorer.views.overview import OverviewView
from attnengine_explorer.views.pattern import PatternView
from attnengine_explorer.views.profile import ProfileView
from attnengine_explorer.views.table import TableView

log = logging.getLogger("attnengine.explorer")
_ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}


class Session:
    """The state of one page and everything that draws it."""

    def __init__(self, document: Document, run: RunData, state: ViewState, runs: list[Path]) -> None:
        self.document = document
        self.run = run
        self.state = run.fitted(state)
        self.history = History()
        self.browser_dark = False
        self.wire = Wire(name="wire")
        self.wire.on_change("act", self._on_act)
        overview = OverviewView(run, self.dispatch)
        self.overview = overview
        self.views: list[View] = [
            overview,
            TableView(run, overview.source),
            PatternView(run),
            ProfileView(run),
            NeuronsView(run),
            CloudView(run),
        ]
        overview.root.tags = [self.wire]  # a model that no root refers to would not reach the browser
        for view in self.views:
            view.restyle(self.dark)
            view.update(None, self.state)
        document.theme = bokeh_theme(self.dark)
        document.config.update(reconnect_session=False, notify_connection_status=False)  # js/page.js starts again
        with document.models.freeze():  # else every root walks all models once more
            for view in self.views:
                document.add_root(view.root)
        document.title = f"{facts(run)['model']} · attnengine"
        document.template = template("page.html")
        document.template_variables.update(frame_variables(run, [path.name for path in runs], state.run))
        self._show(push=False, head_changed=True)

    @property
    def dark(self) -> bool:
        """Whether figures are drawn for a dark page now."""
        return self.state.theme == "dark" or (self.state.theme == "auto" and self.browser_dark)

    def dispatch(self, action: Action) -> None:
        """Do what a person asked for, draw what changed, and write the link."""
        self.go(reduce(self.state, action), record=True, push=not isinstance(action, Visit))

    def go(self, state: ViewState, *, record: bool, push: bool) -> None:
        """Make ``state`` the one on the screen."""
        old, new = self.state, self.run.fitted(state)
        if new == old:
            return
        was_dark = self.dark
        if record:
            self.history.record(old)
        self.state = new
        with self._one_batch():
            if self.dark != was_dark:
                self._restyle()
            for view in self.views:
                view.update(old, new)
            self._show(push=push, head_changed=new.selected != old.selected)

    @contextmanager
    def _one_batch(self) -> Iterator[None]:
        """Send all changes as one message, and look for new models once."""
        self.document.hold("combine")
        try:
            with self.document.models.freeze():
                yield
        finally:
            self.document.unhold()

    def _restyle(self) -> None:
        self.document.theme = bokeh_theme(self.dark)
        for view in self.views:
            view.restyle(self.dark)

    def _show(self, *, push: bool, head_changed: bool) -> None:
        statistic = self.run.statistics[self.state.statistic]
        shown: dict[str, Any] = {
            "query": url.encode(self.state),
            "push": push,
            "state": {name: getattr(self.state, name) for name in self.state.__dataclass_fields__},
            "formula": statistic.formula,
            "paper": statistic.paper,
            "notes": {name: note for view in self.views for name, note in view.notes.items()},
        }
        if head_changed:
            selected = self.state.selected
            shown["head"] = None if selected is None else summary(self.run, *selected)
        self.wire.shown = json.dumps(shown, ensure_ascii=False)

    def _on_act(self, _attr: str, _old: str, new: str) -> None:
        try:
            self._act(parse_act(new))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("ignored an act of the page: %s", error)
        except AttnEngineError as error:
            log.exception("the run cannot be read any more")
            self.wire.shown = json.dumps({"error": str(error)})

    def _act(self, act: dict[str, Any]) -> None:
        match act["kind"]:
            case "choose":
                self.dispatch(Choose(str(act["name"]), str(act["value"])))
            case "clear":
                self.dispatch(Clear())
            case "visit":
                self.dispatch(Visit(url.decode(str(act["query"]))))
            case "key":
                self._move(*_ARROWS[act["key"]])
            case "undo":
                self.go(self.history.undo(self.state), record=False, push=True)
            case "redo":
                self.go(self.history.redo(self.state), record=False, push=True)
            case "scheme":
                self._scheme(dark=act["dark"] is True)
            case other:
                raise ValueError(f"an act of the unknown kind {other!r}")

    def _move(self, dx: int, dy: int) -> None:
        cells = self.overview.cells
        at = self.state.selected
        if at is None:
            first = min(cells, key=lambda head: (-cells[head][1], cells[head][0]))
            self.dispatch(SelectHead(*first))
        else:
            self.dispatch(SelectHead(*neighbour(cells, at, dx, dy)))

    def _scheme(self, *, dark: bool) -> None:
        """The browser prefers light or dark: only an automatic theme follows."""
        was_dark = self.dark
        self.browser_dark = dark
        if self.dark != was_dark:
            with self._one_batch():
                self._restyle()
