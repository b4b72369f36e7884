"""A typed sentence among the points of a head's cloud."""

from __future__ import annotations

import numpy as np
import pytest
from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import ViewState
from tests.explorer.cloud_runs import NO_CLOUD
from tests.explorer.sentences import sentence
from tests.explorer.test_sentence_page import change, settle

WORDS = ["[CLS]", "a", "<b>", "[SEP]"]


@pytest.fixture
def page(runs, monkeypatch):
    run = RunData(runs["clouds"])
    made = sentence(WORDS, heads=4, sites=3, d=16)
    monkeypatch.setattr(run.studio, "make", lambda _asked, _ticket: made)
    return Session(Document(), run, ViewState(view="sentence", text="x", site=1, head=1), [run.path])


def ringed(page):
    return page.document.get_model_by_name("cloud-sentence").data


def test_the_tokens_stand_where_the_embedding_places_their_queries_and_keys(page):
    settle(page)
    change(page, view="cloud", overlay="sentence")
    call = page.run.studio.make(None, None).attentions[1]
    expected = page.run.run.embedding(1, 1).transform(
        call.queries_of(1).astype(np.float32), call.keys_of(1).astype(np.float32)
    )
    assert np.array_equal(np.stack([ringed(page)["x"], ringed(page)["y"]], axis=1), expected[:, :2])
    assert list(ringed(page)["text"]) == WORDS * 2
    assert ringed(page)["marker"] == ["circle"] * 4 + ["triangle"] * 4
    change(page, site=2, head=0)
    assert len(ringed(page)["x"]) == 8
    assert not np.array_equal(ringed(page)["x"], expected[:, 0])
    change(page, overlay="none")
    assert len(ringed(page)["x"]) == 0


def test_a_head_without_a_cloud_and_a_picture_without_places_say_why(page):
    settle(page)
    change(page, view="cloud", overlay="sentence", site=NO_CLOUD[0], head=NO_CLOUD[1])
    assert "cannot be placed here" in page.pages.notes["cloud-overlay"]
    change(page, site=1, head=1, projection="pca")
    assert page.pages.notes["cloud-overlay"] == "The sentence is placed in the 2-D layout only."
