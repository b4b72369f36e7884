"""``attnengine probe``: the table of scores on the terminal, as JSON, or as a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnengine import store

TITLES = {"induction": "induction", "previous_token": "previous token", "duplicate_token": "duplicate token"}


def show(table: pd.DataFrame, model: str, top: int) -> None:
    """The ``top`` heads of each score, side by side."""
    console, shown = Console(highlight=False), Table(box=None, pad_edge=False)
    columns = []
    for name, title in TITLES.items():
        shown.add_column(title, no_wrap=True)
        best = table.nlargest(top, name)
        columns.append([_cell(row, name) for row in best.to_dict("records")])
    for cells in zip(*columns, strict=True):
        shown.add_row(*cells)
    console.print(Text(model), soft_wrap=True)
    console.print(shown)


def _cell(row: dict[str, Any], name: str) -> str:
    error = row[f"{name}_se"]
    spread = "" if pd.isna(error) else f" ± {error:.3f}"
    return f"L{row['layer']}H{row['head']}  {row[name]:.3f}{spread}"


def as_json(table: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Every head's scores with how they were made."""
    heads = table.astype(object).where(table.notna(), None).to_dict("records")
    return json.dumps(facts | {"heads": heads}, indent=1, default=lambda value: value.item())


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV or Parquet, by the file's ending (:func:`check_ending`)."""
    check_ending(path)
    if path.suffix == ".csv":
        store.write_atomic(path, table.to_csv(index=False).encode())
        return
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    store.write_atomic(path, buffer.getvalue())


def check_ending(path: Path) -> None:
    """ValueError unless the file ends in .parquet or .csv: asked before the model is loaded."""
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"--output must end in .parquet or .csv, got {path.name!r}")
