"""The neuron view as one file: every chosen head of a text whose numbers fit, the one asked for first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from attnengine.model.sentence import Sentence, Tokens
from attnengine_explorer.neuron_data import Sheet, corpus_facts, whole
from attnengine_explorer.standalone import Page
from attnengine_explorer.views.neuron_figure import NeuronFigure, sheet_columns, stream_columns

#: Numbers of one file. A head of 500 tokens and 128 neurons is 0.8 MB.
MAX_BYTES = 6_000_000
Head = tuple[int, int]  # (site, head)


def neuron_page(
    sentence: Sentence,
    start: Head,
    heads: Sequence[Head],
    neurons: pd.DataFrame | None = None,
    *,
    title: str,
    caption: str,
    mode: str = "auto",
) -> Page:
    """The page of one text. ``neurons`` is a run's table of that name: what the corpus says of the same heads.

    Heads of ``start``'s layer come before the others when not all of them fit into :data:`MAX_BYTES`; the caption
    says how many were left out.
    """
    sheets = fitting(sentence, start, heads)
    streams: list[Tokens] = []
    rows = []
    for sheet in sheets:
        sides = [sentence.query_tokens(sheet.site), sentence.key_tokens(sheet.site)]
        query, key = (_place(streams, tokens) for tokens in sides)
        mine = None if neurons is None else neurons[(neurons["site"] == sheet.site) & (neurons["head"] == sheet.head)]
        rows.append((sheet, query, key, corpus_facts(mine, sheet.q.shape[1])))
    figure = NeuronFigure()
    figure.sheets.data = sheet_columns(rows)
    figure.streams.data = stream_columns(streams)
    at = next(i for i, sheet in enumerate(sheets) if (sheet.site, sheet.head) == start)
    left_out = len(heads) - len(sheets)
    return Page(
        kind="neurons",
        scripts=("neurons",),
        start="neurons.page",
        roots={"view": figure.root, "strip": figure.strip},
        settings={"sheet": at, "state": {"sheet": at, "query": 0}},
        title=title,
        caption=caption + (f" · {left_out} of {len(heads)} heads left out to keep this page small" if left_out else ""),
        mode=mode,
        lists={
            "sheets": [heading(sheet) for sheet in sheets],
            "corpus": any(facts for *_, facts in rows),
            "pair": any(tokens.is_pair for tokens in streams),
        },
    )


def fitting(sentence: Sentence, start: Head, heads: Sequence[Head]) -> list[Sheet]:
    """Sheets of the heads that fit, in the model's order; ``start`` always does.

    Raises ValueError if ``start`` is not among the heads.
    """
    if start not in heads:
        raise ValueError(f"site {start[0]}, head {start[1]} is not among the heads that are shown; include it")
    room = MAX_BYTES
    found: list[Sheet] = []
    for head in sorted(heads, key=lambda head: (head != start, head[0] != start[0], head)):
        sheet = whole(sentence.attentions[head[0]], head[1])
        if found and sheet.nbytes > room:
            break
        found.append(sheet)
        room -= sheet.nbytes
    return sorted(found, key=lambda sheet: (sheet.site, sheet.head))


def heading(sheet: Sheet) -> str:
    """``L5H3``, and the key head it reads where several share one."""
    return sheet.name if sheet.key_head == sheet.head else f"{sheet.name} · reads key head {sheet.key_head}"


def _place(streams: list[Tokens], tokens: Tokens) -> int:
    """Where these tokens stand in ``streams``; they join them if they are new."""
    for i, known in enumerate(streams):
        if known is tokens or (known.texts == tokens.texts and np.array_equal(known.segment, tokens.segment)):
            return i
    streams.append(tokens)
    return len(streams) - 1
