"""The wire between Python and the page's frame, and the frame itself.

Figures are Bokeh's. The frame around them (bars, selects, the table of numbers) is plain HTML: what is fixed for a
session is written by Jinja with autoescaping on, what changes travels as JSON in ``Wire.shown`` and is put in place
with textContent by js/*.js. Text of a run therefore never meets an HTML parser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from bokeh.core.properties import String
from bokeh.model import DataModel
from markupsafe import Markup

from attnengine_explorer.atlas import limits
from attnengine_explorer.columns import grouped
from attnengine_explorer.numbers import count, number
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import PAGE_VIEWS, ViewState

HERE = Path(__file__).parent
#: A typed text, each character as six of JSON, and a lassoed outline.
MAX_ACT = 200_000
#: STATISTICS.md: the gate on ``mass_defect_max``.
MASS_GATE = 1e-3


def with_nonce(markup: str, nonce: str) -> Markup:
    """Bokeh's own script tags with the nonce that lets them, and no other inline script, run."""
    return Markup(markup.replace("<script", f'<script nonce="{nonce}"'))  # noqa: S704  Bokeh wrote and escaped it


_ENVIRONMENT = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "theme"), autoescape=True)
_ENVIRONMENT.filters["with_nonce"] = with_nonce


class Wire(DataModel):
    """``act``: JSON of what the person did, browser → Python. ``shown``: JSON of what to show, Python → browser."""

    act = String("")
    shown = String("")


def parse_act(text: str) -> dict[str, Any]:
    """The act as a dictionary; ValueError if it is anything else (a client may send what it likes)."""
    if len(text) > MAX_ACT:
        raise ValueError(f"an act of {len(text)} characters, expected at most {MAX_ACT}")
    try:
        act = json.loads(text)
    except RecursionError as error:
        raise ValueError("an act nested too deeply") from error
    if not isinstance(act, dict) or not isinstance(act.get("kind"), str):
        raise ValueError("an act without a kind")
    return act


def template(name: str) -> jinja2.Template:
    """A template of theme/, autoescaping."""
    return _ENVIRONMENT.get_template(name)


def script() -> str:
    """js/*.js as one script: the wire first, page.js, which starts it all, last, the rooms by name between them."""
    rooms = sorted(path.name for path in (HERE / "js").glob("*.js"))
    order = ["wire.js", *(name for name in rooms if name not in ("wire.js", "page.js")), "page.js"]
    return "\n".join((HERE / "js" / name).read_text(encoding="utf-8") for name in order)


def style() -> str:
    """theme/style.css and the style sheet of each page view."""
    sheets = [HERE / "theme" / "style.css", *sorted((HERE / "theme" / "views").glob("*.css"))]
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)


def frame_variables(run: RunData, runs: list[str], state: ViewState) -> dict[str, Any]:
    """What page.html needs: facts of the run, the lists of statistics, our own style and script."""
    return {
        "style": style(),
        "script": script(),
        "page_views": PAGE_VIEWS,
        "shown_view": state.view,
        "columns": run.grid.n_columns,
        "rows": round(-run.grid.bottom + 0.5, 1),
        "facts": facts(run),
        "status": status(run),
        "warnings": warnings(run),
        "statistics": grouped(run.statistics),
        "types": run.type_titles,
        "cells": cells(run),
        "runs": runs,
        "current": state.run,
    }


def facts(run: RunData) -> dict[str, str]:
    """Model and corpus, for the top bar."""
    model, corpus = section(run, "model"), section(run, "corpus")
    return {
        "model": short(text(model.get("id"))) or "unnamed model",
        "model_detail": joined(
            text(model.get("class")), parameters(model.get("n_parameters")), text(model.get("dtype"))
        ),
        "corpus": short(text(corpus.get("source"))) or "unnamed corpus",
        "run": run.path.name,
    }


def cells(run: RunData) -> list[tuple[str, str]]:
    """What a cell of the atlas can show: choice and its name. Clouds need a sample (its table is not read for this)."""
    patterns = [("pattern", "mean pattern")] if run.patterns is not None else []
    clouds = [("cloud", "cloud")] if section(run, "sample").get("tokens") != 0 else []
    return [("statistic", "statistic"), *patterns, *clouds]


def caption(run: RunData, state: ViewState) -> str:
    """What is on the screen, of which model, corpus and run: the line under every picture and table that is saved."""
    told = facts(run)
    head = "" if state.selected is None or state.selected not in run.index else run.name(*state.selected)
    typed = " | ".join(text(part) for part in (state.text, state.text_b) if part)
    return joined(
        state.view.capitalize(), head, cells_told(run, state), f"“{typed}”" if typed else "",
        f"{told['model']} on {told['corpus']}", f"run {text(run.manifest.get('run_hash'))[:12] or told['run']}",
    )  # fmt: skip


def cells_told(run: RunData, state: ViewState) -> str:
    """What the cells of the atlas show, and on what scale."""
    if state.show == "cloud":
        return "cells: queries blue, keys orange"
    if state.show == "pattern" and run.patterns is not None:
        return "cells: mean patterns, each on its own scale, square root"
    statistic = run.statistics[state.statistic]
    low, high = limits(run.heads[state.statistic].to_numpy(dtype=float), statistic)
    unit = "" if statistic.unit in ("", "share") else f" {statistic.unit}"
    return f"heads by {statistic.title.lower()}, colours from {number(low)} to {number(high)}{unit}"


def status(run: RunData) -> list[tuple[str, str]]:
    """Counts and provenance, for the line at the bottom."""
    corpus = section(run, "corpus")
    device = section(run, "device")
    pairs = [(count(corpus.get(name)), name) for name in ("tokens", "documents", "windows")]
    pairs.append((count(len(run.rows)), "heads"))
    pairs.append((run.run.stats if run.run.stats != "all" else "", "statistics"))
    pairs.append((text(device.get("name") or device.get("type")), "device"))
    pairs.append((text(run.manifest.get("output")), "output"))
    pairs.append((text(run.manifest.get("attnengine_version")), "attnengine"))
    pairs.append((text(run.manifest.get("run_hash"))[:12], "run"))
    return [(value, name) for value, name in pairs if value]


def warnings(run: RunData) -> list[str]:
    """What the run warns of, and what the explorer noticed itself."""
    listed = run.manifest.get("warnings")
    found = [text(warning) for warning in listed] if isinstance(listed, list) else []
    said = " ".join(found).lower()
    if run.nan_heads and "nan" not in said:
        names = [run.name(*pair) for pair in sorted(run.nan_heads) if pair in run.index]
        heads = "head" if len(names) == 1 else "heads"
        found.append(f"{len(names)} {heads} produced NaN or infinite numbers: {', '.join(names[:8])}")
    defect = "mass_defect_max"
    largest = run.heads[defect].max() if defect in run.heads else 0.0
    if largest > MASS_GATE and "mass" not in said:
        found.append(f"attention rows do not sum to 1 everywhere: the largest defect is {number(float(largest))}")
    return found


def section(run: RunData, name: str) -> dict[str, Any]:
    """A dictionary of the manifest; empty if it is missing or something else."""
    value = run.manifest.get(name)
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """A manifest value as one line of text, cut at 300 characters."""
    if value is None:
        return ""
    return " ".join(str(value).split())[:300]


def short(name: str) -> str:
    """A local path by its last two parts; a hub id or a sentence as it is."""
    return "/".join(name.rstrip("/").split("/")[-2:]) if name.startswith("/") else name


def parameters(value: object) -> str:
    """``22.7 M parameters``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit} parameters"
    return f"{value:.0f} parameters"


def joined(*parts: str) -> str:
    """The non-empty parts with a dot between them."""
    return " · ".join(part for part in parts if part)
