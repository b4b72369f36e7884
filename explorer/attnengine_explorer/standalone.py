"""One HTML file that holds a view: its figures, Bokeh's script and ours; it asks nobody for anything.

The same page is what a notebook shows, inside a sandboxed frame: a notebook's own scripts and styles cannot reach it,
it needs neither requirejs nor a CDN, and it is still there when the notebook is opened again. Bokeh's script travels
compressed (0.47 MB instead of 1.3 MB a page) and is unpacked by the browser; what comes from a text or a model is JSON
in an inert place.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.embed.util import standalone_docs_json_and_render_items
from bokeh.model import Model
from bokeh.resources import Resources
from markupsafe import Markup

from attnengine_explorer.page import HERE, template
from attnengine_explorer.theme.colours import DARK, LIGHT, bokeh_theme, diverging

#: A frame in a notebook cannot grow with what it holds: it scrolls.
FRAME_HEIGHT = 640


@dataclass(frozen=True)
class Page:
    """A view without a server.

    ``kind`` names the fragment theme/standalone/<kind>.html, ``scripts`` the files js/<script>.js and ``start`` the
    function of theirs that begins, ``roots`` are its Bokeh models by the place where they stand, ``settings`` what the
    script starts with, ``caption`` the line beneath: what is shown, of which model and run.
    """

    kind: str
    scripts: tuple[str, ...]
    start: str
    roots: dict[str, Model]
    settings: dict[str, Any]
    title: str
    caption: str
    mode: str = "auto"
    lists: dict[str, Any] = field(default_factory=dict)  # what the fragment's controls offer
    height: int = FRAME_HEIGHT

    def html(self) -> str:
        """The whole file."""
        document = Document(title=self.title, theme=bokeh_theme(self.mode == "dark"))
        for root in self.roots.values():
            document.add_root(root)
        try:
            found, (item,) = standalone_docs_json_and_render_items([document])
        finally:
            document.clear()  # a model belongs to one document: the same page may be asked for again
        places = {str(root.id): name for name, root in self.roots.items()}
        scripts = [*(_read(f"js/{name}.js") for name in ("export", "alone/standalone", *self.scripts))]
        made = template("standalone.html").render(
            kind=self.kind, title=self.title, caption=self.caption, mode=self.mode, lists=self.lists,
            bokeh=_packed_bokeh(), document=as_json({"documents": found, "item": item.to_json()}),
            settings=as_json({**self.settings, "mode": self.mode, "places": places, "colours": _colours()}),
            style=_read("theme/style.css") + _read("theme/standalone.css"),
            script="\n".join([*scripts, f"standalone.start({self.start});"]),
        )  # fmt: skip
        return made.encode("utf-8", "replace").decode()  # a title may hold half a surrogate pair

    def write(self, path: str | Path) -> Path:
        """Write the file; returns where."""
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def frame(self) -> str:
        """The page inside a frame that may run its own scripts and offer downloads, and nothing else."""
        title = self.title.encode("utf-8", "replace").decode()
        return (
            f'<iframe srcdoc="{html.escape(self.html())}" title="{html.escape(title)}" '
            f'sandbox="allow-scripts allow-downloads" style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )


def as_json(value: Any) -> Markup:
    """JSON that may stand inside a script element: no ``<`` to end it, nothing that UTF-8 cannot hold."""
    return Markup(json.dumps(value, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704


@cache
def _packed_bokeh() -> str:
    """bokeh.min.js as base64 of gzip; the same bytes each time."""
    (script,) = Resources(mode="inline", components=["bokeh"]).js_raw[:1]
    return base64.b64encode(gzip.compress(script.encode(), 9, mtime=0)).decode()


def _read(path: str) -> str:
    return (HERE / path).read_text(encoding="utf-8")


def _colours() -> list[list[Any]]:
    """Light colour (or scale) → its dark one: the page follows the browser's preference without a server."""
    pairs: list[list[Any]] = [[getattr(LIGHT, name), getattr(DARK, name)] for name in vars(LIGHT)]
    return [*pairs, [list(diverging(False)), list(diverging(True))]]
