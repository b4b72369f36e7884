"""One open page: holds the state, turns acts into actions, and lets each view change what changed."""

from __future__ import annotations

import json
import logging
from typing import Any

from bokeh.document import Document

from attnengine.errors import AttnEngineError
from attnengine_explorer import url
from attnengine_explorer.atlas import neighbour
from attnengine_explorer.desk import Desk
from attnengine_explorer.exports import FORMATS, Exports, file_name, written
from attnengine_explorer.growing import Watch
from attnengine_explorer.page import Wire, caption, facts, frame_variables, parse_act, template
from attnengine_explorer.pages import PAGES, Pages, holder
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Action, Change, Clear, History, SelectHead, ViewState, Visit, reduce
from attnengine_explorer.theme.colours import bokeh_theme
from attnengine_explorer.views import View
from attnengine_explorer.views.atlas import AtlasView
from attnengine_explorer.views.filters import FiltersView
from attnengine_explorer.views.table import TableView

log = logging.getLogger("attnengine.explorer")
_ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}


class Session:
    """The state of one page and everything that draws it: the column of heads, and the page view that is shown."""

    def __init__(
        self, document: Document, run: RunData, state: ViewState, runs: list[str], exports: Exports | None = None
    ) -> None:
        self.document = document
        self.exports = exports or Exports()
        self.run = run
        self.history = History()
        self.browser_dark = False
        self._connected = False
        self._push = False
        self.wire = Wire(name="wire")
        self.wire.on_change("act", self._on_act)
        self.desk = Desk(document, run, run.fitted(state), self.dispatch, self._send)
        self.atlas = AtlasView(self.desk)
        table = TableView(run, self.desk.heads)
        self.rail: list[View] = [self.desk.heads, self.atlas, table, FiltersView(self.desk)]
        self.pages = Pages(self.desk)
        document.theme = bokeh_theme(self.dark)
        document.config.update(reconnect_session=False, notify_connection_status=False)  # js/page.js starts again
        places = {"atlas": holder("atlas"), "table": holder("table")}
        places["atlas"].tags = [self.wire]  # a model that no root refers to would not reach the browser
        with document.models.freeze(), self.desk.batch():
            for view in self.rail:
                view.restyle(self.dark)
                view.update(None, self.state)
            self.pages.restyle(self.dark)
            self.pages.update(None, self.state)
            self.desk.heads.finish()
            places["atlas"].children, places["table"].children = [self.atlas.root], [table.root]
            for root in (*places.values(), *self.pages.roots):
                document.add_root(root)
        document.title = f"{facts(run)['model']} · attnengine"
        document.template = template("page.html")
        document.template_variables.update(frame_variables(run, runs, self.state))
        for page in PAGES.values():
            document.template_variables.update(page.frame(run))
        self.watch = Watch(self.desk)
        self.watch.tick()

    @property
    def state(self) -> ViewState:
        """What is on the screen."""
        return self.desk.state

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
        self.desk.state = new
        self._push = push
        with self.desk.batch():
            if self.dark != was_dark:
                self._restyle()
            for view in self.rail:
                view.update(old, new)
            self.pages.update(old, new)
            self.desk.heads.finish()
        self._push = False

    def _restyle(self) -> None:
        self.document.theme = bokeh_theme(self.dark)
        for view in self.rail:
            view.restyle(self.dark)
        self.pages.restyle(self.dark)
        self.desk.heads.finish()

    def _send(self, told: dict[str, Any]) -> None:
        """Write what the frame shows; what views told goes along, until the page is known to be there: then once."""
        notes = {name: note for view in self.rail for name, note in view.notes.items()} | self.pages.notes
        left_out = url.left_out(self.state)
        notes["link"] = f"too long for a link, left out of it: {', '.join(left_out)}" if left_out else ""
        notes["caption"] = caption(self.run, self.state)
        shown = {
            "query": url.encode(self.state),
            "push": self._push,
            "state": {name: getattr(self.state, name) for name in self.state.__dataclass_fields__},
            "notes": notes,
            "told": told,
        }
        self.wire.shown = json.dumps(shown, ensure_ascii=False, allow_nan=False, default=vars)
        if self._connected:
            self.desk.forget_told()

    def _on_act(self, _attr: str, _old: str, new: str) -> None:
        self._connected = True
        try:
            self._act(parse_act(new))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("ignored an act of the page: %s", error)
        except AttnEngineError as error:
            log.exception("the run cannot be read any more")
            self.wire.shown = json.dumps({"error": str(error)})

    def _act(self, act: dict[str, Any]) -> None:
        page, dot, _ = act["kind"].partition(".")
        if dot:
            self.pages.act(page, act)
            return
        match act["kind"]:
            case "change":
                self.dispatch(Change(dict(act["values"])))
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
            case "merge":
                self.watch.merge()
            case "export":
                self._export(str(act["form"]))
            case other:
                raise ValueError(f"an act of the unknown kind {other!r}")

    def _move(self, dx: int, dy: int) -> None:
        cells = self.atlas.cells
        at = self.state.selected
        if at is None:
            first = min(cells, key=lambda head: (-cells[head][1], cells[head][0]))
            self.dispatch(SelectHead(*first))
        else:
            self.dispatch(SelectHead(*neighbour(cells, at, dx, dy)))

    def _export(self, form: str) -> None:
        """Make the table of what is chosen in the page view that is shown, and tell the page where to fetch it."""
        told = caption(self.run, self.state)
        with self.desk.batch():
            try:
                content = written(self.pages.table(self.state), form, told)
                self.desk.tell("download", self.exports.offer(file_name(told, form), content, FORMATS[form]))
            except ValueError as problem:
                self.desk.tell("refused", str(problem))

    def _scheme(self, *, dark: bool) -> None:
        """The browser prefers light or dark: only an automatic theme follows."""
        was_dark = self.dark
        self.browser_dark = dark
        if self.dark != was_dark:
            with self.desk.batch():
                self._restyle()
