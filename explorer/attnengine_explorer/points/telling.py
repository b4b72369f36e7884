"""What the inspector says of a cloud, in words: figures with their errors, the picked point, the lassoed points."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnengine_explorer.numbers import count, estimate, number
from attnengine_explorer.points import context
from attnengine_explorer.points.colouring import values
from attnengine_explorer.points.heads import HeadClouds
from attnengine_explorer.points.names import COLOUR_BY
from attnengine_explorer.points.summary import NEURON_FORMULA, Summary
from attnengine_explorer.points.tokens import TOKEN_CLASSES
from attnengine_explorer.points.wording import visible

_MEANING = {
    "faithfulness_2d": (
        "faithfulness on screen",
        "Spearman's rank correlation of score with distance: −1, nearer always scores higher; 0, nearness says nothing",
    ),
    "faithfulness_d": ("faithfulness in space", "the same with the distances between the vectors, before the picture"),
    "trustworthiness": ("trustworthiness", "1 unless strangers became neighbours on the screen"),
    "continuity": ("continuity", "1 unless neighbours were torn apart on the screen"),
    "knn_preservation": ("neighbours kept", "share of the 15 nearest in space that are among the 15 nearest on screen"),
    "cross_share_d": ("other side near, space", "share of query–key pairs among the 15 nearest neighbours in space"),
    "cross_share_2d": ("other side near, screen", "share of query–key pairs among the 15 nearest on screen"),
}
GREY = "Too unfaithful to be read: above −0.2, or its 95 % interval reaches 0. Nearness here is not attention."
APART = "Queries and keys do not mix in any gauge: these are two maps in one picture."
INEXACT = "This layer has a learned sink: the shift that joins both sides changes its attention a little."
BIASED = "The model adds a score bias; faithfulness judges q·k without it."


def figures(clouds: HeadClouds, site: int, head: int, projection: str, dims: int) -> dict[str, Any]:
    """Rows (title, value, what it means) and warnings for a head's picture; of components they are measured here."""
    row = clouds.figures.get((site, head))
    if row is None or row.get("problem") is not None:
        row = {}
    if projection == "pca":
        kept = ("gauge", "faithfulness_d", "faithfulness_d_se", "faithfulness_d_n", "joins_sides", "gauge_exact")
        row = {name: row[name] for name in kept if name in row} | clouds.measured(site, head, projection, dims)
    if not row:
        return {"rows": [], "warnings": [clouds.problem(site, head) or ""], "grey": False}
    rows = [("gauge", str(row.get("gauge") or "attentionviz"), "which of the equivalent query and key maps is shown")]
    rows += [
        (title, _figure(row, name), meaning) for name, (title, meaning) in _MEANING.items() if row.get(name) is not None
    ]
    told = {"grey": GREY, "joins_sides": APART, "gauge_exact": INEXACT}
    warned = [text for name, text in told.items() if row.get(name) is (name == "grey")]
    warned += [BIASED] if clouds.run.sites[site].has_bias else []
    return {"rows": rows, "warnings": warned, "grey": row.get("grey") is True}


def _figure(row: dict[str, Any], name: str) -> str:
    """``−0.561 ± 0.012``, with the number of queries behind it where that is known."""
    value, error = float(row[name]), row.get(f"{name}_se")
    told = estimate(value, float("nan") if error is None else float(error))
    return told + (f" · {count(row[f'{name}_n'])} queries" if row.get(f"{name}_n") else "")


def hovered(clouds: HeadClouds, site: int, head: int, point: int, by: str) -> dict[str, Any]:
    """Title and rows of the tooltip of a point."""
    n, tokens = len(clouds.tokens), clouds.tokens
    row = point % n
    rows = [["position", str(int(tokens.position[row]))], ["document", _document(clouds, row)]]
    if tokens.has_patches:
        rows.insert(0, ["patch", _patch(clouds, row)])
    if by not in ("side", "position", "document", "row", "col"):
        rows.append([COLOUR_BY[by], told_value(clouds, by, float(values(clouds, site, head, by)[point]))])
    return {"side": side(point, n), "text": _text(clouds, row), "rows": rows}


def told_value(clouds: HeadClouds, by: str, value: float) -> str:
    """The number behind a colour as it is read: classes and documents by name."""
    if np.isnan(value):
        return "keys have no pattern" if by == "entropy" else "none"
    if by == "token_class":
        return TOKEN_CLASSES[int(value)]
    if by == "document":
        return clouds.documents.get(int(value), str(int(value)))
    return str(int(value)) if by in ("position", "position_mod5", "frequency", "row", "col", "patch") else number(value)


def side(point: int, n: int) -> str:
    """Which side a point is on."""
    return "query" if point < n else "key"


def picked(clouds: HeadClouds, site: int, head: int, point: int) -> dict[str, Any]:
    """The picked point: its text in context, its attention lines and its neighbours, all as rows to click on."""
    n, tokens = len(clouds.tokens), clouds.tokens
    row = point % n
    links = context.links(clouds, site, head, point)
    weight = {link.row: link.weight for link in links}
    numbers = [[COLOUR_BY[by], told_value(clouds, by, float(values(clouds, site, head, by)[point]))]
               for by in ("position", "norm", "entropy") if not (by == "entropy" and point >= n)]  # fmt: skip
    return {
        "side": side(point, n),
        "text": _text(clouds, row),
        "rows": [["document", _document(clouds, row)], *numbers],
        "context": [
            {"row": int(other), "text": _text(clouds, int(other)), "here": int(other) == row,
             "weight": round(weight.get(int(other), 0.0), 4)}
            for other in context.around(clouds, row)
        ],
        "links": [
            {"row": link.row, "position": link.position, "weight": number(link.weight, 3),
             "text": _text(clouds, link.row) if link.row >= 0 else ""}
            for link in links
        ],
        "share": number(sum(link.weight for link in links), 3) if point < n and links else "",
        "neighbours": [
            {"row": other % n, "side": side(other, n), "text": _text(clouds, other % n), "cosine": number(cosine, 3)}
            for other, cosine in context.neighbours(clouds, site, head, point)
        ],
        "patches": _patches(clouds, row, weight) if tokens.has_patches else None,
    }  # fmt: skip


def _patches(clouds: HeadClouds, row: int, weight: dict[int, float]) -> dict[str, Any]:
    """The picture's grid of patches: which one is picked, and the stored attention on the others."""
    rows, cols = clouds.tokens.column("row"), clouds.tokens.column("col")
    near = np.flatnonzero((clouds.tokens.window == clouds.tokens.window[row]) & (rows >= 0))
    cells = [[int(rows[p]), int(cols[p]), round(weight.get(int(p), 0.0), 4), int(p)] for p in near]
    return {"height": int(rows.max()) + 1, "width": int(cols.max()) + 1, "cells": cells, "row": row}


def lassoed(found: Summary) -> dict[str, Any]:
    """The summary of lassoed points."""
    told: dict[str, Any] = {
        "queries": count(found.queries),
        "keys": count(found.keys),
        "tokens": [
            [visible(text, 24), f"{count(inside)} of {count(everywhere)}", number(odds, 3)]
            for text, inside, everywhere, odds in found.tokens
        ],
        "documents": [[visible(name), count(c), f"{100 * share:.0f} %"] for name, c, share in found.documents],
        "n_documents": count(found.n_documents),
        "positions": found.positions.tolist(),
        "last_position": found.last_position,
        "quartiles": " · ".join(number(q, 3) for q in found.quartiles),
    }
    if found.attention is not None and found.attention.n_queries:
        shares = found.attention
        told["attention"] = [number(share, 3) for share in (shares.lassoed, shares.sampled, shares.stored)]
    if found.neurons is not None:
        told["neurons"] = [[d, number(value, 3), value / _size(found)] for d, value in found.neurons.largest()]
        told["neurons_total"], told["formula"] = number(found.neurons.total, 3), NEURON_FORMULA
    return told


def _size(found: Summary) -> float:
    assert found.neurons is not None
    return float(np.abs(found.neurons.contribution).max()) or 1.0


def _text(clouds: HeadClouds, row: int) -> str:
    return _patch(clouds, row) if clouds.tokens.has_patches else visible(clouds.tokens.text(row))


def _patch(clouds: HeadClouds, row: int) -> str:
    at = int(clouds.tokens.column("row")[row]), int(clouds.tokens.column("col")[row])
    return f"row {at[0]}, column {at[1]}" if min(at) >= 0 else "no patch (a special token)"


def _document(clouds: HeadClouds, row: int) -> str:
    number_ = int(clouds.tokens.document[row])
    name = clouds.documents.get(number_)
    return str(number_) if name is None else f"{number_} · {visible(name.rsplit('/', 1)[-1])}"
