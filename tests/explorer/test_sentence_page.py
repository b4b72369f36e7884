"""The sentence page without a browser: what is typed goes through the run's own model and comes back exact."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.sentence.studio import Stored, Typed
from attnengine_explorer.session import Session
from attnengine_explorer.shelf import asked_of, window_of
from attnengine_explorer.state import Change, SelectHead, ViewState
from attnengine_explorer.views.head_sheet import MOST_TOKENS, around, spans_of
from tests.explorer.sentences import DOCUMENTS
from tests.explorer.test_jobs import run_callbacks

TEXT = "The cat sat on the mat because it was tired."


@pytest.fixture(scope="module")
def run(spoken_run):
    return RunData(spoken_run)


@pytest.fixture
def page(run):
    return Session(Document(), run, ViewState(view="sentence"), [run.path])


def settle(page: Session, seconds: float = 120) -> None:
    """Let every job end, and draw what it found."""
    end = time.monotonic() + seconds
    while True:
        run_callbacks(page.document)
        if not page.desk.shelf._open:
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def change(page: Session, **values) -> None:
    page.dispatch(Change(values))
    settle(page)


def data(page: Session, name: str):
    return page.document.get_model_by_name(name).data


def told(page: Session) -> dict:
    return json.loads(page.wire.shown)["told"]["sentence"]


def test_a_typed_sentence_is_drawn_with_the_models_own_weights(page, run):
    change(page, text=TEXT)
    assert data(page, "head-view-left")["text"] == [
        "[CLS]", *["The", "cat", "sat", "on", "the", "mat", "because", "it", "was", "tired", "."], "[SEP]"
    ]  # fmt: skip
    from attnengine.model.live import look

    fresh = look(run.studio._loaded, TEXT)
    for site in (0, 3):
        page.dispatch(SelectHead(site, 2))
        settle(page)
        lines = data(page, "head-view-lines")
        for head in range(12):
            mine = lines["head"] == head
            dense = np.zeros((13, 13))
            dense[lines["query"][mine], lines["key"][mine]] = lines["weight"][mine]
            assert np.abs(dense - fresh.attentions[site].pattern(head)).max() <= 1e-5
    assert told(page)["facts"] == "13 tokens"
    assert told(page)["problem"] == ""


def test_only_the_open_head_is_lit_and_clicking_squares_chooses_heads_everywhere(page):
    change(page, text=TEXT, site=2, head=5)
    on = data(page, "head-view-squares")["on"]
    assert np.flatnonzero(on).tolist() == [5]
    source = page.document.get_model_by_name("head-view-squares")
    lit = on.copy()
    lit[7] = 1
    source.data = source.data | {"on": lit}
    assert page.state.heads == ((2, 5), (2, 7))
    assert page.state.selected == (2, 5)
    lit = lit.copy()
    lit[5] = 0
    source.data = source.data | {"on": lit}
    assert (page.state.heads, page.state.selected) == ((), (2, 7))
    page.wire.act = json.dumps({"kind": "undo"})
    assert page.state.heads == ((2, 5), (2, 7))
    assert np.flatnonzero(data(page, "head-view-squares")["on"]).tolist() == [5, 7]
    before = page.history.past[:]
    change(page, site=4, head=1, heads=())
    assert np.flatnonzero(data(page, "head-view-squares")["on"]).tolist() == [1]
    assert len(page.history.past) == len(before) + 1  # drawing is no act of the person


def test_filters_threshold_and_the_clicked_token_are_options_of_the_picture_and_fields_of_the_link(page):
    change(page, text=TEXT, site=0, head=0, between="ab", special="hidden", threshold=0.25, picks="one")
    options = {name: value[0] for name, value in data(page, "head-view-options").items()}
    assert (options["between"], options["hide"], options["threshold"], options["many"]) == ("ab", 1, 0.25, 0)
    source = page.document.get_model_by_name("head-view-options")
    source.data = dict(source.data) | {"pin": [8], "pin_side": ["key"]}
    assert (page.state.pin, page.state.pin_side) == (8, "key")
    source.data = dict(source.data) | {"pin": [-1]}
    assert page.state.pin is None


def test_two_sentences_stand_side_by_side_and_a_pair_is_one_input(page):
    first, second = "The nurse said she was late.", "The nurse said he was late."
    change(page, text=first, text_b=second, second="beside", site=1, head=0)
    assert "she" in data(page, "head-view-left")["text"]
    assert "he" in data(page, "head-view-b-left")["text"]
    assert told(page)["beside"]
    assert not told(page)["pair"]
    change(page, second="pair")
    assert {"she", "he"} <= set(data(page, "head-view-left")["text"])
    assert set(data(page, "head-view-left")["segment"]) == {0, 1}
    assert told(page)["pair"]
    assert not told(page)["beside"]


def test_the_model_view_opens_the_head_that_is_clicked_and_shows_the_chosen_ones_alone(page):
    change(page, text=TEXT, sheet="model")
    cells = page.document.get_model_by_name("model-view-cells")
    assert len(cells.data["site"]) == 72
    assert page.state.sheet == "model"  # outlining the open head is no click on it
    for _ in range(2):  # the open head, too, can be clicked
        cells.selected.indices = [3 * 12 + 4]
        settle(page)
        assert page.state.selected == (3, 4)
        assert page.state.sheet == "head"
        change(page, sheet="model")
        assert data(page, "model-view-outline") == {"x": [4], "y": [-3]}
    change(page, sheet="model", part="chosen", heads=((0, 1), (5, 2)))
    assert list(zip(cells.data["site"], cells.data["head"], strict=True)) == [(0, 1), (5, 2)]


def test_the_heatmap_is_the_exact_pattern_of_the_open_head(page):
    change(page, text=TEXT, sheet="heatmap", site=2, head=3)
    image = data(page, "heatmap-image")["image"][0]
    assert np.abs(image - page.desk.shelf.first.attentions[2].pattern(3)).max() <= 1e-6


def test_a_stored_document_is_shown_and_a_long_one_has_a_map_whose_brush_chooses_the_lines(page):
    change(page, document=0, site=1, head=1)
    n = len(page.desk.shelf.first.streams[""])
    assert n > MOST_TOKENS
    assert DOCUMENTS["cats"].startswith(page.desk.shelf.first.text[:40])
    assert len(data(page, "head-view-left")["y"]) == MOST_TOKENS
    assert data(page, "head-map-image")["image"][0].shape == (200, 200)
    page.document.get_model_by_name("head-map-window").data = {"x0": [20.2], "x1": [59.6], "y0": [100.0], "y1": [119.0]}
    settle(page)
    assert (page.state.query_span, page.state.key_span) == ((100, 120), (20, 61))
    assert len(data(page, "head-view-left")["y"]) == 20
    lines, call = data(page, "head-view-lines"), page.desk.shelf.first.attentions[1]
    mine = lines["head"] == 1
    dense = np.zeros((20, 41))
    dense[lines["query"][mine], lines["key"][mine]] = lines["weight"][mine]
    assert np.abs(dense - call.pattern(1)[100:120, 20:61]).max() <= max(1e-6, 1e-5)


def test_what_cannot_be_shown_says_why_and_leaves_what_is_there(page):
    change(page, text="word " * 600)
    assert "tokens, expected at most 512; shorten it" in told(page)["problem"]
    change(page, text="", document=2, doc_window=40)
    assert "has windows 0 to 0, got 40" in told(page)["problem"]
    change(page, doc_window=None)
    assert told(page)["problem"] == ""


def test_the_table_to_save_is_the_pattern_that_is_shown(page):
    change(page, text=TEXT, site=3, head=7)
    table = page.pages._made["sentence"].table(page.state)
    pattern = page.desk.shelf.first.attentions[3].pattern(7)
    assert np.array_equal(table["weight"].to_numpy().reshape(13, 13), pattern)
    row = table[(table["query_pos"] == 2) & (table["key_pos"] == 8)].iloc[0]
    assert (row["head"], row["query"], row["key"]) == ("L3H7", "cat", "it")


def test_documents_are_found_by_name_or_number(page):
    page.wire.act = json.dumps({"kind": "sentence.find", "text": "corpus"})
    found = json.loads(page.wire.shown)["told"]["sentence-documents"]
    assert [one["document"] for one in found] == [0, 1, 2]
    page.wire.act = json.dumps({"kind": "sentence.find", "text": "2"})
    assert 2 in [one["document"] for one in json.loads(page.wire.shown)["told"]["sentence-documents"]]


def test_a_newer_sentence_gives_the_older_one_up_and_cancel_stops(page):
    page.dispatch(Change({"text": "first one"}))
    ticket = page.desk.shelf._open["sentence"]
    page.dispatch(Change({"text": "second one"}))
    assert ticket.given_up
    settle(page)
    assert page.desk.shelf.first.text == "second one"
    page.dispatch(Change({"text": "third one"}))
    page.wire.act = json.dumps({"kind": "sentence.cancel"})
    assert not page.desk.shelf._open
    assert told(page)["problem"] == "stopped"


def test_what_was_stopped_can_be_run_again_and_what_is_under_way_goes_on(page, monkeypatch):
    studio, go_on = page.run.studio, threading.Event()
    make = studio.make
    monkeypatch.setattr(studio, "make", lambda asked, ticket: go_on.wait(60) and make(asked, ticket))
    page.dispatch(Change({"text": "one that is stopped"}))
    page.wire.act = json.dumps({"kind": "sentence.cancel"})
    page.wire.act = json.dumps({"kind": "sentence.again", "n": 1})
    ticket = page.desk.shelf._open["sentence"]
    assert told(page)["problem"] == ""
    page.wire.act = json.dumps({"kind": "sentence.again", "n": 2})
    assert page.desk.shelf._open["sentence"] is ticket
    assert not ticket.given_up
    go_on.set()
    settle(page)
    assert (found := page.desk.shelf.first).text == "one that is stopped"
    page.wire.act = json.dumps({"kind": "sentence.again", "n": 3})
    assert not page.desk.shelf._open
    assert page.desk.shelf.first is found


def test_the_state_says_what_is_asked(run):
    asked = {
        ViewState(): (None, None),
        ViewState(text="a", text_b="b"): (Typed("a", "b"), None),
        ViewState(text="a", text_b="b", second="beside"): (Typed("a"), Typed("b")),
        ViewState(text="a", text_b="b", second="decoder"): (Typed("a", None, "b"), None),
        ViewState(document=1): (Stored(1, 0), None),
        ViewState(document=1, doc_window=3): (Stored(1, 3), None),
        ViewState(document=1, text="a"): (Typed("a"), None),
    }
    for state, expected in asked.items():
        assert asked_of(run, state) == expected
    row = run.run.tokens.iloc[0]
    state = ViewState(token=0, document=int(row["document"]))
    first = run.run.windows.query("document == @row.document")["window"].min()
    assert window_of(run, state) == row["window"] - first


def test_a_brush_is_a_window_of_at_most_as_many_tokens_as_lines_can_be_drawn_for():
    assert around(10.2, 40.7, 500) == (10, 42)
    assert around(300, 0, 500) == (0, MOST_TOKENS)
    assert around(200, 200, 500) == (200 - MOST_TOKENS // 2, 200 + MOST_TOKENS // 2)
    assert around(499, 499, 500) == (500 - MOST_TOKENS, 500)
    assert spans_of(ViewState(query_span=(5, 900)), (400, 30)) == (slice(5, 5 + MOST_TOKENS), slice(0, 30))
    assert spans_of(ViewState(key_span=(90, 95)), (10, 20)) == (slice(0, 10), slice(15, 20))
