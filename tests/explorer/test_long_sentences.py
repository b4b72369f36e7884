"""Two thousand tokens: a map, a window of lines, and a click that stays small."""

from __future__ import annotations

import numpy as np
import pytest
from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import ViewState
from attnengine_explorer.views.head_sheet import MOST_TOKENS
from tests.explorer.sentences import sentence
from tests.explorer.test_sentence_page import change, data, settle

CLICK = 500_000  # bytes


@pytest.fixture
def page(runs, monkeypatch):
    run = RunData(runs["bert_like"])
    made = sentence([f"word{i % 37}" for i in range(2000)], heads=12, sites=6, d=16)
    monkeypatch.setattr(run.studio, "make", lambda _asked, _ticket: made)
    return Session(Document(), run, ViewState(view="sentence", text="x", site=1, head=1), [run.path])


def size(page, *names: str) -> int:
    """Bytes of these sources as the browser gets them."""
    columns = [np.asarray(column) for name in names for column in data(page, name).values()]
    return sum(column.nbytes if column.dtype.kind in "fiu" else sum(map(len, column.tolist())) for column in columns)


def test_lines_of_a_window_and_a_map_of_the_whole_fit_into_one_click(page):
    settle(page)
    assert len(data(page, "head-view-left")["y"]) == MOST_TOKENS
    names = ["head-view-lines", "head-view-rest", "head-view-left", "head-view-right", "head-map-image"]
    assert size(page, *names) < CLICK
    first = page.desk.shelf.first.attentions[1]
    image, pattern = data(page, "head-map-image")["image"][0], first.pattern(1, slice(0, 10))
    assert image[0, 0] == np.float32(pattern[:, :10].max())
    change(page, sheet="heatmap")
    assert size(page, "heatmap-image") < CLICK
    change(page, sheet="model")
    assert size(page, "model-view-picture") < CLICK
