"""The table twin of the atlas: the same heads, the same selection, as sortable numbers."""

from __future__ import annotations

import numpy as np
from bokeh.models import (
    AllIndices,
    CDSView,
    CellFormatter,
    DataTable,
    IndexFilter,
    InlineStyleSheet,
    NumberFormatter,
    ScientificFormatter,
    TableColumn,
)

from attnengine_explorer.heads_source import HeadsSource
from attnengine_explorer.numbers import NONE
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.atlas import KEY_STATISTICS

_STYLE = """
:host { font: 13px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.slick-pane, .slick-viewport, .grid-canvas, .slick-header, .slick-header-columns { background: transparent !important; }
.slick-header-column.ui-state-default { background: transparent !important; color: var(--faint);
  border: none !important; font-weight: 500; }
.slick-header-column:not(:first-child) .slick-column-name { float: right; }
.slick-column-name { max-width: 100%; overflow: hidden; text-overflow: ellipsis; font-size: 12px; }
.slick-header-column { border-bottom: 1px solid var(--line) !important; }
.slick-row, .slick-row.odd, .slick-row.even { background: transparent !important; color: var(--ink); }
.slick-row:hover { background: var(--hover) !important; cursor: pointer; }
.slick-cell { border: none !important; border-bottom: 1px solid var(--hair) !important; padding: 3px 8px !important; }
.slick-cell.selected, .slick-row.active .slick-cell.selected { background: var(--chosen) !important; }
.slick-cell.active { outline: none; }
"""


def formatter(values: np.ndarray) -> CellFormatter:
    """As many decimals as the largest finite value needs for four figures; powers of ten when it is tiny."""
    finite = np.abs(values[np.isfinite(values)])
    top = float(finite.max(initial=0))
    if top and top < 1e-3:
        return ScientificFormatter(precision=2, nan_format=NONE, text_align="right")
    for limit, pattern in ((1e4, "0,0"), (100, "0,0.0"), (10, "0.00"), (1, "0.000")):
        if top >= limit:
            return NumberFormatter(format=pattern, nan_format=NONE, text_align="right")
    return NumberFormatter(format="0.0000", nan_format=NONE, text_align="right")


class TableView:
    """All heads with the chosen statistic, its standard error and a few others."""

    def __init__(self, run: RunData, heads: HeadsSource) -> None:
        self.run = run
        self.heads = heads
        self.source = source = heads.source
        self.notes: dict[str, str] = {}
        self.chosen = TableColumn(field="value", title="", width=150)
        self.error = TableColumn(field="se", title="± s.e.", width=66)
        self.others = [
            TableColumn(
                field=f"key_{name}",
                title=heading,
                width=66,
                formatter=formatter(np.asarray(source.data[f"key_{name}"])),
            )
            for name, heading in KEY_STATISTICS.items()
            if name in run.statistics
        ]
        self.root = DataTable(
            name="table",
            source=source,
            view=CDSView(filter=AllIndices()),
            columns=[
                TableColumn(field="name", title="Head", width=150 if self._has_long_names else 90),
                self.chosen,
                self.error,
                *self.others,
            ],
            index_position=None,
            reorderable=False,
            autosize_mode="force_fit",
            row_height=26,
            sizing_mode="stretch_both",
            stylesheets=[InlineStyleSheet(css=_STYLE)],
        )

    @property
    def _has_long_names(self) -> bool:
        return max(len(name) for name in self.source.data["name"]) > 8

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Another statistic gets another title and other decimals; filters leave heads out; a narrow place, columns."""
        if changed(old, new, "statistic"):
            statistic = self.run.statistics[new.statistic]
            unit = f" ({statistic.unit})" if statistic.unit not in ("", "share") else ""
            self.chosen.update(title=statistic.title + unit, formatter=formatter(np.asarray(self.source.data["value"])))
            self.error.formatter = formatter(np.asarray(self.source.data["se"]))
        if changed(old, new, "filters"):
            passing = self.heads.passing
            self.root.scroll_to_selection = bool(passing.all())  # Bokeh scrolls to the row of the unfiltered source
            self.root.view.filter = AllIndices() if passing.all() else IndexFilter(np.flatnonzero(passing).tolist())
        if changed(old, new, "view"):
            for column in (self.error, *self.others):
                column.visible = new.view == "overview"

    def restyle(self, dark: bool) -> None:
        """Nothing: the style sheet above speaks in the page's own colour variables."""
