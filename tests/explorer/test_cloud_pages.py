"""The page Cloud without a browser: build it on a run, act, and read what its sources hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bokeh.events import RangesUpdate

from attnengine.errors import EmbeddingError
from attnengine_explorer import url
from attnengine_explorer.points import lasso
from attnengine_explorer.points.composed import FADED
from attnengine_explorer.points.names import COLOUR_BY
from attnengine_explorer.points.palette import palette
from attnengine_explorer.points.raster import DENSITIES, FIRST_DIM, LEVELS
from attnengine_explorer.points.scene import FEW
from attnengine_explorer.points.tables import clouds_table, points_table
from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import Change, SelectHead, ViewState
from attnengine_explorer.views.cloud_page import CloudPage
from tests.explorer.cloud_runs import GREY, NO_CLOUD, NOT_EMBEDDED, WORDS
from tests.explorer.cloud_sessions import act, data, later, open_page, open_state, told, when


@pytest.fixture(scope="module")
def opened(runs):
    return {name: RunData(runs[name]) for name in ("clouds", "solid", "patches", "bert_like", "hostile_clouds")}


@pytest.fixture
def page(opened):
    return open_page(opened["clouds"], view="cloud", site=1, head=1)


def cloud_page(session: Session) -> CloudPage:
    found = session.pages._made["cloud"]
    assert isinstance(found, CloudPage)
    return found


def at_point(session: Session, point: int) -> dict[str, float]:
    x, y = cloud_page(session).figure.scene.screen[point].tolist()
    return {"x": x, "y": y}


def around(session: Session, points: np.ndarray, how: str = "replace") -> None:
    """Lasso a box that holds these points."""
    at = cloud_page(session).figure.scene.screen[points]
    (x0, y0), (x1, y1) = (at.min(0) - 0.05).tolist(), (at.max(0) + 0.05).tolist()
    act(session, "cloud.lasso", x=[x0, x1, x1, x0], y=[y0, y0, y1, y1], how=how)


def test_few_points_are_marks_of_their_own_with_shapes_by_side_and_sides_mixed(page, opened):
    n = len(opened["clouds"].run.tokens)
    drawn = data(page, "cloud-points")
    assert len(drawn["x"]) == 2 * n <= FEW
    assert data(page, "cloud-image")["image"] == []
    stored = opened["clouds"].run.embedding(1, 1).points
    assert np.array_equal(np.stack([drawn["x"], drawn["y"]], 1), stored[drawn["point"]])
    is_key = np.array(drawn["point"]) >= n
    assert [name == "triangle" for name in drawn["marker"]] == is_key.tolist()
    runs_of_a_side = np.diff(np.flatnonzero(np.diff(is_key)))
    assert runs_of_a_side.max() < 40  # neither side is drawn over the other
    level = (np.array(drawn["code"]).astype(int) - 1) // DENSITIES
    assert np.array_equal(level, np.where(is_key, LEVELS - 1, 0))


def test_many_points_are_a_picture_of_the_window_and_moving_it_makes_another(opened):
    session = open_page(opened["bert_like"], view="cloud", site=0, head=0, projection="pca")
    picture = data(session, "cloud-image")
    assert len(data(session, "cloud-points")["x"]) == 0
    (codes,) = picture["image"]
    assert codes.dtype == np.uint8
    assert codes.size < 500_000
    plot = session.document.get_model_by_name("single-cloud")
    ends = plot.x_range.start, plot.x_range.end
    assert (picture["x"][0], picture["x"][0] + picture["dw"][0]) == pytest.approx(ends)
    plot.x_range.update(start=-0.2, end=0.2)
    plot.y_range.update(start=-0.4, end=0.4)
    later(session)
    moved = data(session, "cloud-image")
    assert (moved["x"], moved["dw"]) == ([-0.2], [pytest.approx(0.4)])
    assert not np.array_equal(moved["image"][0], codes)


def test_a_window_that_the_browser_sends_back_is_not_drawn_twice(page, monkeypatch):
    figure, drawn = cloud_page(page).figure, []
    monkeypatch.setattr(figure, "draw", lambda: drawn.append(figure.window))
    figure.root._trigger_event(RangesUpdate(figure.root, x0=0, x1=1, y0=0, y1=1))
    later(page)
    assert drawn == []
    figure.root.x_range.start -= 0.5
    later(page)
    assert [window.x0 for window in drawn] == [figure.root.x_range.start]


def test_zooming_in_goes_over_to_marks(opened):
    session = open_page(opened["bert_like"], view="cloud", site=0, head=0, projection="pca")
    scene = cloud_page(session).figure.scene
    x, y = scene.screen[3].tolist()
    plot = session.document.get_model_by_name("single-cloud")
    plot.x_range.update(start=x - 0.05, end=x + 0.05)
    plot.y_range.update(start=y - 0.05, end=y + 0.05)
    later(session)
    inside = (np.abs(scene.screen - [x, y]) < 0.05).all(axis=1)
    assert 3 in data(session, "cloud-points")["point"]
    assert set(data(session, "cloud-points")["point"].tolist()) == set(np.flatnonzero(inside).tolist())
    assert data(session, "cloud-image")["image"] == []


@pytest.mark.parametrize("ends", [(float("nan"), 1.0), (1.0, -1.0), (float("inf"), 1.0)])
def test_a_window_the_browser_invents_is_not_drawn(page, ends):
    before = cloud_page(page).figure.window
    plot = page.document.get_model_by_name("single-cloud")
    plot.x_range.update(start=ends[0], end=ends[1])
    later(page)
    assert cloud_page(page).figure.window == before


def test_hover_says_what_the_table_says(page, opened):
    tokens, n = opened["clouds"].run.tokens, 640
    for point in (0, 17, 640 + 300):
        act(page, "cloud.hover", asked=point, **at_point(page, point))
        under = told(page, "cloud.under")
        row = under["point"] % n
        assert np.allclose(cloud_page(page).figure.scene.screen[under["point"]], list(at_point(page, point).values()))
        assert under["side"] == ("query" if under["point"] < n else "key")
        assert under["text"].replace("␣", " ").replace("↵", "\n") == tokens.text[row]
        rows = dict(under["rows"])
        assert int(rows["position"]) == tokens.position[row]
        assert rows["document"] == f"{tokens.document[row]} · report-{tokens.document[row]}.txt"
    for by, numbers in (("norm", None), ("frequency", None), ("entropy", opened["clouds"].run.row_entropy(1)[:, 1])):
        page.dispatch(Change({"color_by": by}))
        act(page, "cloud.hover", asked=1, **at_point(page, 5))
        under = told(page, "cloud.under")
        if numbers is not None and under["point"] < n:
            assert float(dict(under["rows"])[COLOUR_BY[by]]) == pytest.approx(numbers[under["point"]], rel=1e-3)
    act(page, "cloud.hover", asked=2, x=1e6, y=1e6)
    assert told(page, "cloud.under") == {"asked": 2}


def test_a_click_picks_a_point_its_document_its_lines_and_its_neighbours(page, opened):
    run = opened["clouds"].run
    act(page, "cloud.pick", **at_point(page, 70))
    point = page.state.token + 640 * (page.state.point_side == "key")
    assert np.allclose(cloud_page(page).figure.scene.screen[point], list(at_point(page, 70).values()))
    page.dispatch(Change({"token": 70, "point_side": "query"}))
    assert page.state.document == run.tokens.document[70]
    lines = data(page, "cloud-lines")
    listed = [w for w, at in zip(run.top_weights(1)[70, 1], run.top_keys(1)[70, 1], strict=True) if at in sampled(run)]
    np.testing.assert_allclose(lines["weight"], listed)
    screen = cloud_page(page).figure.scene.screen
    np.testing.assert_allclose(lines["x1"], screen[640 + np.array(lines["row"]), 0])
    np.testing.assert_allclose(lines["x0"], screen[70, 0])
    assert np.array_equal(np.argsort(lines["width"]), np.argsort(lines["weight"]))
    found = told(page, "cloud.point")
    assert [row["position"] for row in found["links"]] == run.top_keys(1)[70, 1].tolist()
    assert sum(row["row"] >= 0 for row in found["links"]) == len(lines["weight"])
    assert len(data(page, "cloud-near")["x"]) == len(found["neighbours"]) == 10
    assert [one["row"] for one in found["context"] if one["here"]] == [70]
    page.dispatch(Change({"threshold": 0.05}))
    assert all(w >= 0.05 for w in data(page, "cloud-lines")["weight"])
    act(page, "cloud.pick", x=1e6, y=1e6)
    assert page.state.token is None
    assert told(page, "cloud.point") is None
    assert len(data(page, "cloud-lines")["x0"]) == 0


def sampled(run) -> set[int]:
    """Positions that were sampled in the window of token 70."""
    return set(run.tokens.position[run.tokens.window == run.tokens.window[70]])


def test_a_lasso_adds_subtracts_undoes_and_is_a_link(page, opened):
    cloud = opened["clouds"].clouds.cloud(1, 1, "layout")
    lump = np.flatnonzero(cloud.labels == 2)
    around(page, lump)
    first = page.state.lasso
    chosen = cloud_page(page).figure.scene.emphasised
    assert chosen[lump].mean() > 0.98
    around(page, lump[: len(lump) // 2], "subtract")
    fewer = cloud_page(page).figure.scene.emphasised
    assert fewer.sum() < chosen.sum()
    assert not (fewer & ~chosen).any()
    other = np.flatnonzero(cloud.labels == 5)
    around(page, other, "add")
    assert cloud_page(page).figure.scene.emphasised[other].mean() > 0.98
    again = open_state(opened["clouds"], url.decode(url.encode(page.state)))
    assert np.array_equal(cloud_page(again).figure.scene.emphasised, cloud_page(page).figure.scene.emphasised)
    page.go(page.history.undo(page.state), record=False, push=True)
    page.go(page.history.undo(page.state), record=False, push=True)
    assert page.state.lasso == first
    dim = np.array(data(page, "cloud-points")["code"]) >= FIRST_DIM
    assert np.array_equal(~dim, chosen[data(page, "cloud-points")["point"]])


def test_lassoed_points_are_the_same_tokens_in_another_head_and_in_every_head(page):
    lump = np.flatnonzero(page.run.clouds.cloud(1, 1, "layout").labels == 2)
    around(page, lump)
    chosen = cloud_page(page).figure.scene.emphasised
    page.dispatch(SelectHead(2, 0))
    assert np.array_equal(cloud_page(page).figure.scene.emphasised, chosen)
    page.dispatch(Change({"view": "clouds"}))
    later(page)
    assert f"{int(chosen.sum()):,} of 1,280 points" in json.loads(page.wire.shown)["notes"]["clouds-search"]


def test_a_summary_follows_the_count_and_says_what_was_lassoed(page):
    assert told(page, "cloud.summary") is None
    around(page, np.flatnonzero(page.run.clouds.cloud(1, 1, "layout").labels == 2))
    chosen = cloud_page(page).figure.scene.emphasised
    assert json.loads(page.wire.shown)["notes"]["cloud-search"] == f"{int(chosen.sum()):,} of 1,280 points"
    found = when(page, "cloud.summary", bool)
    assert int(found["queries"]) == chosen[:640].sum()
    assert int(found["keys"]) == chosen[640:].sum()
    assert "q_d" in found["formula"]
    assert len(found["attention"]) == 3
    page.dispatch(Change({"lasso": ""}))
    assert told(page, "cloud.summary") is None


def test_a_search_highlights_in_one_head_and_in_every_head(page, opened):
    page.dispatch(Change({"search": "cat"}))
    words = opened["clouds"].run.tokens.text
    expected = np.tile((words == "cat").to_numpy(), 2)
    assert np.array_equal(cloud_page(page).figure.scene.emphasised, expected)
    before = page.state
    page.dispatch(Change({"view": "clouds"}))
    later(page)
    (picture,) = data(page, "clouds-image")["image"]
    session = open_page(opened["clouds"], view="clouds")
    later(session)
    (plain,) = data(session, "clouds-image")["image"]
    size = picture.shape[0] // 3
    for site in range(3):
        for head in range(4):
            if (site, head) in (NO_CLOUD, NOT_EMBEDDED):
                continue
            cut = np.s_[(2 - site) * size : (3 - site) * size, head * size : (head + 1) * size]
            cell, whole = picture[cut], plain[cut]
            assert np.array_equal(cell > 0, whole > 0)
            bright = (cell > 0) & ((cell < FIRST_DIM) | (cell >= FADED))
            assert 0 < bright.sum() <= 2 * expected.sum()
            assert bright.sum() < (whole > 0).sum()
    assert before.search == "cat"


@pytest.mark.parametrize(
    ("pattern", "mode"), [("(", "regex"), ("(?=a)", "regex"), ("(a+)+$", "regex"), ("zzz", "exact")]
)
def test_a_strange_search_is_answered_in_words(page, pattern, mode):
    page.dispatch(Change({"search": pattern, "search_mode": mode}))
    note = json.loads(page.wire.shown)["notes"]["cloud-search"]
    assert note.startswith(("not a regular expression", "0 of 1,280", "0 of")) or "points" in note
    later(page)


def test_every_colouring_has_a_legend_and_its_own_palette_light_and_dark(page):
    for by in ("side", "position", "token_class", "document", "norm", "entropy", "frequency"):
        for dark in (False, True):
            page.dispatch(Change({"color_by": by, "theme": "dark" if dark else "light"}))
            legend = told(page, "cloud.legend")
            assert cloud_page(page).figure.mapper.palette == list(palette(legend["kind"], dark))
            assert len(legend["colours"]) == LEVELS
            if by == "document":
                assert [name for _, name in legend["names"]] == [f"corpus/report-{i}.txt" for i in range(5)]
    page.dispatch(Change({"color_by": "entropy"}))
    assert told(page, "cloud.legend")["without"] == "grey: no value"
    drawn = data(page, "cloud-points")
    assert np.array_equal(np.array(drawn["code"]) >= FIRST_DIM, np.array(drawn["point"]) >= 640)


def test_sizes_follow_the_lengths_within_each_side(page):
    page.dispatch(Change({"size_by": "norm"}))
    drawn = data(page, "cloud-points")
    lengths = page.run.clouds.norms(1, 1)[drawn["point"]]
    keys = np.array(drawn["point"]) >= 640
    for side in (keys, ~keys):
        groups = [lengths[side & (np.array(drawn["size"]) == size)] for size in sorted(set(drawn["size"]))]
        assert len(groups) == 3
        assert groups[0].max() <= groups[1].min() <= groups[1].max() <= groups[2].min()


def test_faithfulness_stands_beside_the_picture_with_its_error_and_a_grey_one_says_so(page, opened):
    rows = {title: value for title, value, _ in told(page, "cloud.head")["rows"]}
    assert rows["faithfulness on screen"] == "−0.300 ± 0.020 · 640 queries"
    assert rows["gauge"] == "balanced"
    page.dispatch(SelectHead(*GREY))
    head = told(page, "cloud.head")
    assert head["grey"] is True
    assert "Nearness here is not attention" in head["warnings"][0]
    page.dispatch(Change({"projection": "pca"}))
    from attnengine.embedding.faithfulness import clustered_mean, rank_correlations, sight

    run, at = opened["clouds"].run, opened["clouds"].clouds.cloud(*GREY, "pca").points[:, :2]
    seen = sight(run.tokens, kind="self", window=None, top_keys=run.top_keys(1))
    q, k = run.queries(1)[:, GREY[1]], run.keys(1)[:, GREY[1]]
    value, error, count = clustered_mean(rank_correlations(q, k, at[:640], at[640:], seen), seen.document)
    assert told(page, "cloud.head")["rows"][0][1] == "measuring …"
    head = when(page, "cloud.head", lambda head: len(head["rows"]) > 1)
    shown = head["rows"][1][1].replace("−", "-").split(" · ")
    assert [float(n) for n in shown[0].split(" ± ")] == pytest.approx([value, error], abs=error / 9)
    assert int(shown[1].split()[0]) == count


def test_a_head_without_a_cloud_says_why_and_offers_components(page):
    page.dispatch(SelectHead(*NO_CLOUD))
    assert "the same vector" in json.loads(page.wire.shown)["notes"]["cloud-missing"]
    assert len(data(page, "cloud-points")["x"]) == 0
    page.dispatch(Change({"projection": "pca"}))
    assert json.loads(page.wire.shown)["notes"]["cloud-missing"] == ""
    assert len(data(page, "cloud-points")["x"]) == 1280


def test_a_run_without_an_embedding_says_how_to_make_one(opened):
    page = open_page(opened["bert_like"], view="cloud", site=0, head=0)
    assert "attnengine embed" in json.loads(page.wire.shown)["notes"]["cloud-missing"]
    atlas = open_page(opened["bert_like"], view="clouds")
    later(atlas)
    assert "attnengine embed" in json.loads(atlas.wire.shown)["notes"]["clouds-missing"]
    atlas.dispatch(Change({"projection": "pca"}))
    later(atlas)
    assert json.loads(atlas.wire.shown)["notes"]["clouds-missing"] == ""
    assert (data(atlas, "clouds-image")["image"][0] > 0).mean() > 0.05


def test_three_dimensions_turn_and_a_lasso_remembers_the_turn(opened):
    session = open_page(opened["solid"], view="cloud", site=0, head=0, dims="3", yaw=0, pitch=0)
    before = np.array(data(session, "cloud-points")["x"])
    act(session, "cloud.turn", yaw=40, pitch=10)
    assert session.state.yaw == 0  # a step of the hand is no step of the history
    assert not np.array_equal(before, data(session, "cloud-points")["x"])
    session.dispatch(Change({"yaw": 40, "pitch": 10}))
    around(session, np.arange(20))
    drawn = lasso.read(session.state.lasso)
    assert drawn is not None
    assert (drawn.place.dims, drawn.place.yaw, drawn.place.pitch) == (3, 40, 10)
    chosen = cloud_page(session).figure.scene.emphasised
    assert chosen[:20].all()
    session.dispatch(Change({"yaw": 200}))
    assert np.array_equal(cloud_page(session).figure.scene.emphasised, chosen)


def test_a_flat_layout_has_no_third_dimension_and_says_what_does(page):
    page.dispatch(Change({"dims": "3"}))
    assert "take PCA for three" in json.loads(page.wire.shown)["notes"]["cloud-missing"]
    page.dispatch(Change({"projection": "pca"}))
    assert len(data(page, "cloud-points")["x"]) == 1280


def test_patches_show_their_place_and_the_attention_in_their_picture(opened):
    session = open_page(opened["patches"], view="cloud", site=0, head=1, token=70, color_by="row")
    tokens = opened["patches"].run.tokens
    picture = told(session, "cloud.point")["patches"]
    assert (picture["height"], picture["width"]) == (8, 8)
    rows = tokens[(tokens.window == tokens.window[70]) & (tokens.row >= 0)]
    assert [cell[:2] for cell in picture["cells"]] == rows[["row", "col"]].to_numpy().tolist()
    weights = dict(zip(data(session, "cloud-lines")["row"], data(session, "cloud-lines")["weight"], strict=True))
    for row, _, weight, token in picture["cells"]:
        assert row == tokens.row[token]
        assert weight == pytest.approx(weights.get(token, 0.0), abs=1e-4)
    act(session, "cloud.hover", asked=1, **at_point(session, 70))
    assert dict(told(session, "cloud.under")["rows"])["patch"].startswith("row ")


@pytest.mark.parametrize("what", [
    {"kind": "cloud.hover", "x": "1", "y": 2}, {"kind": "cloud.hover", "x": 1},
    {"kind": "cloud.pick", "x": None, "y": 0}, {"kind": "cloud.turn", "yaw": 1e9, "pitch": 0},
    {"kind": "cloud.lasso", "x": [1, 2], "y": [1, 2], "how": "replace"}, {"kind": "cloud.steal"},
    {"kind": "cloud.lasso", "x": [1, 2, 3], "y": [1, 2, 4], "how": "maybe"},
    {"kind": "cloud.lasso", "x": [1] * 3000, "y": [1] * 3000, "how": "add"},
    {"kind": "cloud.lasso", "x": [1, 2, True], "y": [1, 2, 4], "how": "add"},
])  # fmt: skip
def test_a_hostile_act_changes_nothing(page, what):
    before, scene = page.state, cloud_page(page).figure.scene
    page.wire.act = json.dumps(what)
    assert page.state == before
    assert cloud_page(page).figure.scene is scene


def test_the_file_of_a_selection_is_its_points_with_their_numbers(page, opened):
    page.dispatch(Change({"search": "cat", "color_by": "norm"}))
    table = cloud_page(page).table(page.state)
    tokens = opened["clouds"].run.tokens
    assert set(table.text) == {"cat"}
    assert len(table) == 2 * (tokens.text == "cat").sum()
    stored = opened["clouds"].run.embedding(1, 1)
    point = table.token + 640 * (table.side == "key")
    np.testing.assert_array_equal(table[["x", "y"]], stored.points[point])
    np.testing.assert_array_equal(table.cluster, stored.labels[point])
    np.testing.assert_allclose(table.norm, page.run.clouds.norms(1, 1)[point])
    assert len(points_table(page.run.clouds, ViewState(site=1, head=1))) == 1280
    with pytest.raises(ValueError, match="no head is open"):
        points_table(page.run.clouds, ViewState())
    figures = clouds_table(page.run.clouds)
    assert figures.set_index(["site", "head"]).loc[(1, 1), "faithfulness_2d"] == pytest.approx(-0.3)
    with pytest.raises(EmbeddingError, match="attnengine embed"):
        clouds_table(opened["bert_like"].clouds)


def test_hostile_tokens_are_cut_and_told_as_text(opened):
    session = open_page(opened["hostile_clouds"], view="cloud", site=1, head=1, token=5, labels="tokens")
    assert told(session, "cloud.point")["text"].startswith("<img␣src")
    assert all(len(text) <= 40 for text in data(session, "cloud-labels")["text"])
    assert len(WORDS) > 0
