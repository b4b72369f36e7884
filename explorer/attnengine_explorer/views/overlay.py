"""The sentence's tokens among the points of the open head's cloud: a ring and a word each, over all else."""

from __future__ import annotations

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, Text
from bokeh.plotting import figure

from attnengine_explorer.desk import Desk
from attnengine_explorer.sentence.placed import Placed
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.fonts import MONO

NOTE = "cloud-overlay"
#: Beyond this the words would cover the cloud; the rings stay.
MOST_WORDS = 60


class OverlayView:
    """Rings on ``plot``: circles for queries, triangles for keys, placed in the stored layout of two dimensions."""

    def __init__(self, desk: Desk, plot: figure) -> None:
        self.desk = desk
        self.notes = {NOTE: ""}
        self.source = ColumnDataSource(
            data={name: [] for name in ("x", "y", "marker", "color", "text")}, name="cloud-sentence"
        )
        self.found: Placed | None = None
        self.dark = False
        self.rings = plot.scatter(
            "x", "y", marker="marker", size=13, fill_color=None, line_color="color", line_width=2.4, source=self.source
        )
        self.words = Text(x="x", y="y", text="text", x_offset=9, y_offset=-7, text_font_size="11px")
        self.words.update(text_font=value(MONO), background_fill_alpha=0.8, padding=2, border_radius=3)
        plot.add_glyph(self.source, self.words)

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Place the sentence in the head that is open now, or take its rings away."""
        what = ("overlay", "site", "head", "projection", "dims", "text", "text_b", "second", "document", "doc_window")
        if not changed(old, new, *what):
            return
        self.desk.shelf.give_up("place")
        self._show(None)
        self.notes[NOTE] = ""
        if new.overlay == "none":
            return
        if new.projection != "layout" or new.dims != "2":
            self.notes[NOTE] = "The sentence is placed in the 2-D layout only."
            return
        self.desk.shelf.place(new, self._placed, self._failed)

    def _placed(self, found: Placed) -> None:
        with self.desk.batch():
            self.notes[NOTE] = "Ringed: the tokens of your sentence, ○ as queries, △ as keys."
            self._show(found)

    def _failed(self, problem: str) -> None:
        with self.desk.batch():
            self.notes[NOTE] = f"The sentence cannot be placed here: {problem}"

    def _show(self, found: Placed | None) -> None:
        self.found = found
        if found is None:
            self.source.data = {name: [] for name in self.source.data}
            return
        colours = look(self.dark)
        words = found.labels if len(found.labels) <= MOST_WORDS else [""] * len(found.labels)
        self.source.data = {
            "x": found.points[:, 0],
            "y": found.points[:, 1],
            "marker": ["triangle" if side else "circle" for side in found.side],
            "color": [colours.key if side else colours.query for side in found.side],
            "text": words,
        }

    def restyle(self, dark: bool) -> None:
        """Query and key colours of the theme."""
        self.dark = dark
        self.words.update(text_color=look(dark).ink, background_fill_color="#1c1f24" if dark else "#ffffff")
        self._show(self.found)
