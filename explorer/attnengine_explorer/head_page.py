"""The head view as one file, alone or beneath the model view that opens its heads: every chosen layer of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource

from attnengine.model.sentence import Sentence
from attnengine_explorer.atlas import lay_out
from attnengine_explorer.sentence.thumbnails import ROWS, Head, thumbnails
from attnengine_explorer.standalone import Page
from attnengine_explorer.views.head_view import HEAD_ROW, HEADS_A_ROW, ROW, HeadFigure, shown
from attnengine_explorer.views.model_view import ModelFigure

#: Tokens a side whose lines a file holds.
MOST_TOKENS = 128
#: Numbers of all layers in one file.
MAX_BYTES = 6_000_000
_SOURCES = ("lines", "rest", "left", "right", "squares")


def head_page(
    sentence: Sentence, start: Head, heads: Sequence[Head], lit: Sequence[int] | None = None, *, title: str,
    caption: str, mode: str = "auto", with_model: bool = False,
) -> Page:  # fmt: skip
    """The page of one text. ``lit`` are the heads of the first layer that are on, all by default.

    The layer of ``start`` comes first when not all layers fit into :data:`MAX_BYTES`, and the caption says what was
    left out.
    """
    figure = HeadFigure("head-view")
    layers, left_out = _layers(figure, sentence, start[0], heads)
    labels = [sentence.attentions[row["site"]].site.name for row in layers]
    at = next(i for i, row in enumerate(layers) if row["site"] == start[0])
    source = ColumnDataSource(name="head-layers", data={name: [row[name] for row in layers] for name in layers[0]})
    figure.heads.tags = [*figure.heads.tags, source]
    roots: dict[str, Any] = {"heads": figure.heads, "lines": figure.figure}
    said = [caption]
    if left_out:
        said.append(f"{left_out} layers left out to keep this page small")
    if any(max(call.shape) > MOST_TOKENS for call in sentence.attentions):
        said.append(f"lines of the first {MOST_TOKENS} tokens")
    if with_model:
        roots["model"] = _model(sentence, heads, said).figure
    return Page(
        kind="heads",
        scripts=("head_view", "alone/heads"),
        start="heads.page",
        roots=roots,
        settings={"layer": at, "head": start[1], "lit": None if lit is None else list(lit)},
        title=title,
        caption=" · ".join(said),
        mode=mode,
        lists={
            "layers": labels,
            "pair": any(tokens.is_pair for tokens in sentence.streams.values()),
            "model": with_model,
        },
        height=820 if with_model else 560,
    )


def _layers(
    figure: HeadFigure, sentence: Sentence, first: int, heads: Sequence[Head]
) -> tuple[list[dict[str, Any]], int]:
    """What the figure holds for each site that fits, and how many were left out; it is left drawing ``first``."""
    sites = list(dict.fromkeys(site for site, _ in heads))
    room = MAX_BYTES
    found: list[dict[str, Any]] = []
    for site in sorted(sites, key=lambda site: (site != first, site)):
        row = _layer(figure, sentence, site, [head for where, head in heads if where == site])
        size = sum(getattr(value, "nbytes", 0) for value in row.values())
        if found and size > room:
            break
        found.append(row)
        room -= size
    return sorted(found, key=lambda row: row["site"]), len(sites) - len(found)


def _layer(figure: HeadFigure, sentence: Sentence, site: int, heads: list[int]) -> dict[str, Any]:
    span = slice(0, MOST_TOKENS)
    figure.show(shown(sentence, site, span, span))
    figure.light(set(heads))
    row: dict[str, Any] = {
        f"{name}_{column}": values
        for name in _SOURCES
        for column, values in getattr(figure, name).data.items()
    }  # fmt: skip
    rows = max(len(figure.left.data["y"]), len(figure.right.data["y"]))
    n_rows = -(-len(figure.squares.data["name"]) // HEADS_A_ROW)
    return row | {
        "site": site, "height": ROW * (rows + 2), "bottom": rows - 0.3, "heads_height": HEAD_ROW * n_rows,
        "heads_bottom": n_rows - 0.5,
    }  # fmt: skip


def _model(sentence: Sentence, heads: Sequence[Head], said: list[str]) -> ModelFigure:
    figure = ModelFigure("model-view")
    rows = [(row.site.site, row.label) for row in lay_out([sentence.attentions[s].site for s, _ in heads]).rows]
    names = {(site, head): sentence.attentions[site].name(head) for site, head in heads}
    figure.show(thumbnails(sentence, heads), list(dict.fromkeys(rows)), names)
    figure.figure.update(sizing_mode="stretch_width", height=80 + min(44, 620 // len(set(rows))) * len(set(rows)))
    if any(call.shape[0] > ROWS for call in sentence.attentions):
        said.append(f"thumbnails of {ROWS} queries, evenly spread")
    return figure
