"""A page without a browser: build it on a run, act, and read what its sources hold."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import Column

from attnengine_explorer import url
from attnengine_explorer.numbers import number
from attnengine_explorer.page import cells, facts, parse_act, status, warnings
from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import Change, Clear, SelectHead, ViewState


@pytest.fixture(scope="module")
def opened(runs):
    return {name: RunData(path) for name, path in runs.items()}


@pytest.fixture
def session(opened):
    return open_page(opened["bert_like"])


def open_page(run: RunData, state: ViewState | None = None) -> Session:
    return Session(Document(), run, state or ViewState(), [run.path.name])


def shown(session: Session) -> dict:
    return json.loads(session.wire.shown)


def source(session: Session, name: str):
    return session.document.get_model_by_name(name)


def act(session: Session, **what) -> None:
    session.wire.act = json.dumps(what)


def test_the_atlas_holds_the_table_on_disk_for_every_statistic(session):
    for name in session.run.statistics:
        session.dispatch(Change({"statistic": name}))
        expected = session.run.run.heads.sort_values(["site", "head"])
        assert np.array_equal(source(session, "heads").data["value"], expected[name], equal_nan=True)
        if f"{name}_se" in expected:
            assert np.array_equal(source(session, "heads").data["se"], expected[f"{name}_se"], equal_nan=True)


def test_a_signed_statistic_has_a_symmetric_scale_and_another_palette(session):
    sequential = session.atlas.mapper.palette
    session.dispatch(Change({"statistic": "score_mean"}))
    mapper = session.atlas.mapper
    assert mapper.low == -mapper.high
    assert mapper.palette != sequential
    session.dispatch(Change({"statistic": "entropy"}))
    assert mapper.palette == sequential


def test_opening_a_head_fills_its_panels_and_the_link(session):
    session.dispatch(SelectHead(3, 7))
    assert shown(session)["query"] == "site=3&head=7"
    assert shown(session)["push"] is True
    assert shown(session)["told"]["head"]["name"] == "L3H7"
    assert np.array_equal(source(session, "pattern-source").data["image"][0], session.run.run.patterns[3, 7][::-1])
    assert sum(len(source(session, f"neurons-{side}").data["x"]) for side in ("above", "below")) == 16
    assert len(source(session, "profile-source").data["x"]) == 257
    assert len(source(session, "cloud-source").data["query_x"]) == 5000
    assert source(session, "heads").selected.indices == [3 * 12 + 7]
    session.dispatch(Clear())
    assert shown(session)["told"]["head"] is None
    assert source(session, "heads").selected.indices == []


def test_clicking_a_cell_or_a_row_opens_its_head_and_clicking_nothing_closes_it(session):
    source(session, "heads").selected.indices = [25]
    assert session.state.selected == (2, 1)
    source(session, "heads").selected.indices = [25, 26]  # Shift: the open head and another are chosen
    assert session.state.heads == ((2, 1), (2, 2))
    source(session, "heads").selected.indices = [70]  # another head opens, the set stays
    assert session.state.selected == (5, 10)
    assert source(session, "heads").selected.indices == [25, 26]
    marked = source(session, "marked").data
    assert list(zip(marked["site"], marked["head"], strict=True)) == [(2, 1), (2, 2), (5, 10)]
    assert np.array_equal(marked["x"], [1, 2, 10])
    assert len(set(marked["ring"])) == 3
    source(session, "heads").selected.indices = []
    assert (session.state.heads, session.state.selected) == ((), (5, 10))
    source(session, "heads").selected.indices = []
    assert session.state.selected is None


def test_the_next_head_sends_no_token_text_again(session):
    session.dispatch(SelectHead(0, 0))
    texts = source(session, "cloud-source").data["text"]
    before = np.array(source(session, "cloud-source").data["key_x"])
    session.dispatch(SelectHead(0, 1))
    assert source(session, "cloud-source").data["text"] is texts
    assert not np.array_equal(before, source(session, "cloud-source").data["key_x"])


def test_a_step_is_one_batch_and_touches_only_what_changed(session):
    session.dispatch(SelectHead(0, 0))
    changes = []
    session.document.on_change(changes.append)
    session.dispatch(Change({"color_by": "position"}))
    names = {getattr(change, "model", None) and change.model.name for change in changes if hasattr(change, "model")}
    assert not names & {"heads", "pattern", "profile", "neurons-above", "cloud-source"}
    assert "wire" in names


def test_a_page_view_is_made_when_it_is_first_shown_and_drawn_only_while_it_is(session):
    place = source(session, "place-single-cloud")
    assert place.children == []
    session.dispatch(SelectHead(0, 0))
    overview = source(session, "pattern-source").data["image"][0]
    session.dispatch(Change({"view": "cloud"}))
    assert len(place.children) == 1
    session.dispatch(SelectHead(1, 1))
    assert source(session, "pattern-source").data["image"][0] is overview
    session.dispatch(Change({"view": "overview"}))
    assert np.array_equal(source(session, "pattern-source").data["image"][0], session.run.run.patterns[1, 1][::-1])


def test_a_facet_is_made_when_it_is_first_shown_and_is_up_to_date_when_it_is_shown_again(session):
    assert source(session, "pattern-source") is None
    session.dispatch(SelectHead(0, 0))
    assert source(session, "pattern-source") is not None
    session.dispatch(Change({"facet": "heads"}))
    session.dispatch(SelectHead(1, 1))
    assert np.array_equal(source(session, "pattern-source").data["image"][0], session.run.run.patterns[0, 0][::-1])
    session.dispatch(Change({"facet": "head"}))
    assert np.array_equal(source(session, "pattern-source").data["image"][0], session.run.run.patterns[1, 1][::-1])
    assert len(shown(session)["told"]["alike"]) == 5


def test_another_head_needs_no_walk_through_the_document(session, monkeypatch):
    """Bokeh looks for models that came or went; of a step that brings none, that was three quarters of the work."""
    models = session.document.models
    session.dispatch(SelectHead(0, 0))
    walks, walk = [], models.recompute
    monkeypatch.setattr(models, "recompute", lambda: walks.append(walk()))
    session.dispatch(SelectHead(1, 1))
    assert walks == []
    session.dispatch(Change({"statistic": "previous_mass"}))  # brings two formatters
    assert len(walks) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_models_that_come_within_a_batch_belong_to_the_document_after_it(session, broken):
    place, new = session.document.roots[0], Column(name="come")
    with suppress(ZeroDivisionError), session.desk.batch():
        place.children = [*place.children, new]
        assert source(session, "come") is None
        if broken:
            _ = 1 / 0
    assert source(session, "come") is new
    with session.desk.batch():
        place.children = place.children[:-1]
    assert source(session, "come") is None


def test_what_a_view_told_is_sent_until_the_page_is_there_and_then_once(session):
    session.dispatch(SelectHead(0, 0))
    with session.desk.batch():
        session.desk.tell("job", 3)
    assert shown(session)["told"]["head"]["name"] == "L0H0"
    assert shown(session)["told"]["job"] == 3
    act(session, kind="scheme", dark=False)
    session.dispatch(Change({"order": "value"}))
    session.dispatch(Change({"order": "head"}))
    assert shown(session)["told"] == {}


def test_a_link_keeps_only_the_heads_filters_and_rows_that_the_run_has(opened):
    query = "heads=0:1.99~77:0&filters=entropy:0:1,nothing_such:0:1,type:induction&token=5000&doc=4"
    page = open_page(opened["bert_like"], url.decode(query))
    assert shown(page)["query"] == "heads=0:1&filters=entropy:0.0:1.0,type:induction&doc=4"


def test_arrows_undo_and_redo_move_through_heads(session):
    act(session, kind="key", key="ArrowDown")
    assert session.state.selected == (0, 0)
    act(session, kind="key", key="ArrowDown", n=2)
    act(session, kind="key", key="ArrowRight")
    assert session.state.selected == (1, 1)
    act(session, kind="undo")
    assert session.state.selected == (1, 0)
    act(session, kind="redo")
    assert session.state.selected == (1, 1)


def test_arrows_follow_the_sorted_columns(session):
    session.dispatch(Change({"order": "value"}))
    act(session, kind="key", key="ArrowRight")
    values = session.run.run.heads.query("site == 0").set_index("head").entropy_normalized
    assert session.state.selected == (0, values.idxmax())
    act(session, kind="key", key="ArrowRight", n=2)
    assert session.state.selected == (0, values.sort_values(ascending=False).index[1])


def test_the_back_button_shows_the_old_state_and_writes_no_new_link(session):
    session.dispatch(SelectHead(1, 1))
    act(session, kind="visit", query="?stat=entropy")
    assert session.state == ViewState(statistic="entropy")
    assert shown(session)["push"] is False


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"kind": 3}', '{"kind": "change"}', '{"kind": "key", "key": "x"}', "[" * 9000, '{"kind": "steal"}',
    '{"kind": "change", "values": {"__class__": "x"}}', '{"kind": "change", "values": {"statistic": "<b>"}}',
    '{"kind": "change", "values": {"site": 1}}', '{"kind": "change", "values": {"run": 0}}', '{"kind": "x.y"}',
    '{"kind": "change", "values": {"heads": [[0, {}]]}}', '{"kind": "change", "values": 3}', '{"kind": "overview.x"}',
])  # fmt: skip
def test_a_hostile_act_changes_nothing(session, text):
    before = session.state
    session.wire.act = text
    assert session.state == before
    if not text.startswith('{"kind": "'):
        with pytest.raises(ValueError):  # noqa: PT011  each has its own message
            parse_act(text)


def test_the_caption_says_what_the_cells_show_and_on_what_scale(session):
    session.dispatch(Change({"statistic": "score_mean"}))
    values = session.run.run.heads["score_mean"].abs().max()
    told = f"heads by mean score, colours from {number(-values)} to {number(values)}"
    assert told in shown(session)["notes"]["caption"]
    for show, said in (("pattern", "each on its own scale"), ("cloud", "queries blue, keys orange")):
        session.dispatch(Change({"show": show}))
        assert said in shown(session)["notes"]["caption"]
        assert "heads by" not in shown(session)["notes"]["caption"]


def test_cells_can_show_what_the_run_has(opened, monkeypatch):
    assert [choice for choice, _ in cells(opened["bert_like"])] == ["statistic", "pattern", "cloud"]
    assert [choice for choice, _ in cells(opened["core"])] == ["statistic", "cloud"]
    monkeypatch.setitem(opened["bert_like"].manifest, "sample", {"tokens": 0})
    assert [choice for choice, _ in cells(opened["bert_like"])] == ["statistic", "pattern"]


def test_an_index_the_browser_invents_opens_nothing(session):
    source(session, "heads").selected.indices = [10_000]
    assert session.state.selected is None


@pytest.mark.parametrize("name", ["bert_like", "ragged", "thousand", "hostile"])
@pytest.mark.parametrize("show", ["statistic", "pattern", "cloud"])
def test_every_run_opens_in_every_state(opened, name, show):
    run = opened[name]
    last = list(run.index)[-1]
    for color in ("side", "position", "entropy", "norm"):
        state = ViewState(show=show, order="value", site=last[0], head=last[1], color_by=color, theme="dark")
        page = open_page(run, state)
        assert page.state == state
        assert url.decode(shown(page)["query"]) == state


def test_heads_without_a_value_are_marked_and_counted(opened):
    page = open_page(opened["ragged"], ViewState(statistic="previous_mass"))
    missing = np.isnan(source(page, "heads").data["value"])
    assert missing.sum() == 10
    assert np.array_equal(source(page, "missing").data["x"], source(page, "heads").data["x"][missing])
    assert np.array_equal(source(page, "missing").data["y"], source(page, "heads").data["y"][missing])
    assert "10 of 38 heads" in shown(page)["notes"]["missing"]


def test_cross_attention_explains_its_empty_panels(opened):
    page = open_page(opened["ragged"], ViewState(site=3, head=0, neuron_statistic="qk_distance_corr"))
    notes = shown(page)["notes"]
    assert "Cross-attention has no offsets" in notes["profile"]
    assert "offsets have no meaning" in notes["neurons"]


def test_a_core_run_offers_what_it_holds_and_says_what_it_was_made_without(opened):
    run = opened["core"]
    assert run.run.verify() == []
    assert list(run.neuron_statistics) == ["qk_mean", "qk_attended_mean"]
    assert {"entropy", "induction_mass", "digit_mass"} < set(run.statistics)
    assert not {"score_mean", "received_gini", "value_weighted_first_mass"} & set(run.statistics)
    link = ViewState(statistic="score_mean", neuron_statistic="qk_var", show="pattern", site=1, head=2)
    page = open_page(run, link)
    assert (page.state.statistic, page.state.neuron_statistic) == ("entropy_normalized", "qk_mean")
    notes = shown(page)["notes"]
    assert notes["pattern"] == "This run was made with --stats core: no patterns."
    assert notes["profile"] == "This run was made with --stats core: no profiles."
    assert notes["neurons"] == notes["cloud"] == ""
    assert sum(len(source(page, f"neurons-{side}").data["x"]) for side in ("above", "below")) == 16
    assert ("core", "statistics") in status(run)
    for name in run.neuron_statistics:
        page.dispatch(Change({"neuron_statistic": name}))
        assert page.state.neuron_statistic == name


def test_dark_is_asked_for_or_follows_the_browser(session):
    axis = session.document.get_model_by_name("atlas").xaxis[0]
    light = axis.major_label_text_color
    act(session, kind="scheme", dark=True)
    assert session.dark is True
    assert axis.major_label_text_color != light
    session.dispatch(Change({"theme": "light"}))
    assert session.dark is False
    assert axis.major_label_text_color == light


@pytest.mark.parametrize("manifest", [
    {"model": None, "corpus": [], "warnings": "x", "nan_heads": {"a": 1}, "device": 3},
    {"model": {"id": 7, "n_parameters": "many"}, "corpus": {"tokens": "1"}, "nan_heads": [[0], [1, "2"], [99, 99], 0]},
    {"warnings": [None, 3, ["x"]], "output": {"a": 1}},
])  # fmt: skip
def test_a_strange_manifest_still_opens(tmp_path, manifest):
    from tests.explorer.synthetic_run import site, write_run

    run = RunData(write_run(tmp_path / "run", [site(0, 0, heads=2)], extra=manifest, n_tokens=20))
    open_page(run, ViewState(site=0, head=0))
    assert facts(run)["model"]
    assert isinstance(warnings(run), list)


def test_a_mass_defect_and_nan_heads_are_warned_of_even_if_the_manifest_is_silent(tmp_path, opened):
    from attnengine import store
    from attnengine.opened import open_run
    from tests.explorer.synthetic_run import site, write_run

    path = write_run(tmp_path / "run", [site(0, 0, heads=2)], nan_heads=[(0, 1)], n_tokens=20)
    assert warnings(RunData(path)) == ["1 head produced NaN or infinite numbers: L0H1"]
    heads = open_run(path).heads
    store.write_table(path, "heads", heads.assign(mass_defect_max=0.25))
    store.write_manifest(path, store.read_manifest(path) | {"files": store.list_files(path)})
    assert "largest defect is 0.2500" in warnings(RunData(path))[1]
    assert warnings(opened["bert_like"]) == []
