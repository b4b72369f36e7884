"""Page view 4, Sentence: a text through the run's model, as lines, thumbnails, heatmap, and what joins them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import Column

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Change, ViewState
from attnengine_explorer.views import PageView
from attnengine_explorer.views.head_sheet import HeadSheet, spans_of
from attnengine_explorer.views.heatmap_sheet import HeatmapSheet
from attnengine_explorer.views.model_sheet import ModelSheet
from attnengine_explorer.views.neuron_sheet import NeuronSheet
from attnengine_explorer.views.sheets import Sheet, head_of

#: Name in the state → class.
SHEETS: dict[str, type[Sheet]] = {
    "head": HeadSheet,
    "model": ModelSheet,
    "heatmap": HeatmapSheet,
    "neuron": NeuronSheet,
}
#: Documents that one look into the list shows.
LISTED = 40


class SentencePage(PageView):
    """The form, and the sheets."""

    PLACES = tuple(place for sheet in SHEETS.values() for place in sheet.PLACES)

    def __init__(self, desk: Desk, places: Mapping[str, Column]) -> None:
        super().__init__(desk, places)
        view = SentenceView(desk)
        self.views = [view]
        self.view = view
        self.roots = view.roots

    @staticmethod
    def frame(run: RunData) -> dict[str, Any]:
        """The layers to pick from, by the kind of their attention; the sheets."""
        layers: dict[str, list[tuple[int, str]]] = {}
        for row in run.grid.rows:
            kind = " ".join(filter(None, (row.site.stack, row.site.kind)))
            layers.setdefault(kind, []).append((row.site.site, row.label))
        is_pair = any(row.site.stack == "decoder" for row in run.grid.rows)
        return {"layers": layers, "sheets": list(SHEETS), "has_decoder": is_pair}

    def table(self, state: ViewState) -> pd.DataFrame:
        """The weights of the open head between the tokens that are shown, a row a pair; heads without a sentence."""
        first = self.desk.shelf.first
        return super().table(state) if first is None else weights(first, state)

    def act(self, act: dict[str, Any]) -> None:
        """``sentence.layer``, ``.find`` (documents), ``.cancel`` and ``.again``."""
        match act["kind"]:
            case "sentence.layer":
                self.view.layer(int(act["site"]))
            case "sentence.find":
                self.view.find(str(act["text"])[:200])
            case "sentence.cancel":
                self.view.cancel()
            case "sentence.again":
                self.view.again()
            case _:
                super().act(act)


class SentenceView:
    """Asks for the sentences that the state names and gives them to the sheet that is shown."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.notes: dict[str, str] = {}
        self.sheets = {name: sheet(desk, self.notes) for name, sheet in SHEETS.items()}
        self.roots = {place: root for sheet in self.sheets.values() for place, root in sheet.roots.items()}
        self._drawn: dict[str, tuple[ViewState, Sentence, Sentence | None]] = {}
        self._problem = ""

    def update(self, _old: ViewState | None, new: ViewState) -> None:
        """Draw the sheet, now or when its sentences are there."""
        self._problem = ""
        if self.desk.shelf.want(new, self._arrived, self._failed):
            self._draw(new)
        self._tell()

    def _arrived(self) -> None:
        with self.desk.batch():
            self._draw(self.desk.state)
            self._tell()

    def _failed(self, problem: str) -> None:
        with self.desk.batch():
            self._problem = problem
            self._tell()

    def _draw(self, new: ViewState) -> None:
        first, second = self.desk.shelf.first, self.desk.shelf.second
        if first is None:
            return
        before = self._drawn.get(new.sheet)
        same = before is not None and before[1] is first and before[2] is second
        self.sheets[new.sheet].update(before[0] if before and same else None, new, first, second)
        self._drawn[new.sheet] = (new, first, second)

    def _tell(self) -> None:
        """What the script has to know of the sentences."""
        shelf = self.desk.shelf
        first = shelf.first
        self.desk.tell(
            "sentence",
            {
                "problem": self._problem,
                "facts": "" if first is None else facts(first),
                "ready": first is not None,
                "beside": shelf.second is not None,
                "pair": first is not None and any(tokens.is_pair for tokens in first.streams.values()),
                "decoder": first is not None and "decoder" in first.streams,
                "site": None if first is None else head_of(self.desk.state, first)[0],
                "text": "" if first is None else first.text[:20_000],
            },
        )

    def layer(self, site: int) -> None:
        """Show another layer: the head of the same number there."""
        first = self.desk.shelf.first
        n_heads = self.desk.run.sites[site].n_heads
        _, head = (0, 0) if first is None else head_of(self.desk.state, first)
        state = self.desk.state
        lit = tuple((site, one) for _, one in state.heads if one < n_heads)
        self.desk.dispatch(Change({"site": site, "head": min(head, n_heads - 1), "heads": tuple(dict.fromkeys(lit))}))

    def find(self, text: str) -> None:
        """Tell the documents whose number or name holds ``text``."""
        table = self.desk.run.table("documents")
        found: list[dict[str, Any]] = []
        if table is not None:
            names = table["source"].astype(str)
            wanted = names.str.contains(text, case=False, regex=False) | table["document"].astype(str).eq(text)
            rows = table[wanted].head(LISTED)
            found = [
                {"document": int(n), "name": str(name)[:120]}
                for n, name in zip(rows["document"], rows["source"], strict=True)
            ]
        self.desk.say("sentence-documents", found)

    def cancel(self) -> None:
        """Give up what is being computed."""
        self.desk.shelf.give_up()
        self._failed("stopped")

    def again(self) -> None:
        """Ask once more for what was stopped or failed; what is there or under way stays."""
        if not self.desk.shelf.is_busy("sentence"):
            with self.desk.batch():
                self.update(None, self.desk.state)

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        for sheet in self.sheets.values():
            sheet.restyle(dark)


def weights(sentence: Sentence, state: ViewState) -> pd.DataFrame:
    """(query_pos, query, key_pos, key, weight) of the open head, within the window whose lines are drawn."""
    site, head = head_of(state, sentence)
    call = sentence.attentions[site]
    rows, columns = spans_of(state, call.shape)
    pattern = call.pattern(head, rows)[:, columns]
    i, j = (place.ravel() for place in np.indices(pattern.shape))
    queries, keys = sentence.query_tokens(site).texts[rows], sentence.key_tokens(site).texts[columns]
    return pd.DataFrame(
        {
            "head": call.name(head),
            "query_pos": i + rows.start,
            "query": [queries[place] for place in i],
            "key_pos": j + columns.start,
            "key": [keys[place] for place in j],
            "weight": pattern.ravel(),
        }
    )


def facts(sentence: Sentence) -> str:
    """``23 tokens``, or for two stacks ``17 encoder, 23 decoder tokens``."""
    counts = [(stack, len(tokens)) for stack, tokens in sentence.streams.items()]
    if len(counts) == 1:
        return f"{counts[0][1]:,} tokens"
    return ", ".join(f"{n:,} {stack}" for stack, n in counts) + " tokens"
