"""All heads' clouds in one picture, on the page Clouds and in the atlas of heads, without a browser."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bokeh.events import Tap

from attnengine_explorer.points.composed import FADED
from attnengine_explorer.points.palette import palette
from attnengine_explorer.points.raster import DENSITIES, FIRST_DIM
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Change
from attnengine_explorer.views.clouds_page import CloudsPage
from tests.explorer.cloud_runs import GREY, NO_CLOUD, NOT_EMBEDDED
from tests.explorer.cloud_sessions import data, later, open_page


@pytest.fixture(scope="module")
def opened(runs):
    return {name: RunData(runs[name]) for name in ("clouds", "bert_like", "thousand")}


@pytest.fixture
def atlas(opened):
    session = open_page(opened["clouds"], view="clouds")
    later(session)
    return session


def test_the_atlas_has_every_heads_cloud_in_its_cell_greys_what_cannot_be_read_and_marks_what_is_missing(atlas):
    (picture,) = data(atlas, "clouds-image")["image"]
    size = picture.shape[0] // 3
    assert picture.shape == (3 * size, 4 * size)
    for site in range(3):
        for head in range(4):
            cell = picture[(2 - site) * size : (3 - site) * size, head * size : (head + 1) * size]
            if (site, head) in (NO_CLOUD, NOT_EMBEDDED):
                assert not cell.any()
            else:
                assert ((cell >= FADED).any()) == ((site, head) == GREY)
                assert (cell > 0).sum() > 100
    heads = data(atlas, "clouds-heads")
    assert "the same vector" in heads["problem"][NO_CLOUD[0] * 4 + NO_CLOUD[1]]
    assert "was not embedded" in heads["problem"][NOT_EMBEDDED[0] * 4 + NOT_EMBEDDED[1]]
    assert sorted(zip(data(atlas, "clouds-none")["x"], data(atlas, "clouds-none")["y"], strict=True)) == [
        (3, -2),
        (3, 0),
    ]
    assert heads["faithfulness_2d"][5] == "−0.300 ± 0.020"
    note = json.loads(atlas.wire.shown)["notes"]["clouds-facts"]
    assert "10 heads" in note
    assert "1 too unfaithful" in note


def test_columns_of_clouds_follow_those_of_the_atlas_of_heads(atlas):
    atlas.dispatch(Change({"order": "value"}))
    assert np.array_equal(data(atlas, "clouds-heads")["x"], data(atlas, "heads")["x"])
    assert np.array_equal(data(atlas, "clouds-heads")["y"], data(atlas, "heads")["y"])


def test_a_click_on_a_cell_opens_the_heads_cloud(atlas):
    page = atlas.pages._made["clouds"]
    assert isinstance(page, CloudsPage)
    for _ in range(2):  # the second time it is open already
        page.atlas.root._trigger_event(Tap(page.atlas.root, x=2.3, y=-0.8))
        assert (atlas.state.view, atlas.state.selected) == ("cloud", (1, 2))
        atlas.dispatch(Change({"view": "clouds"}))
    for x, y in ((9, 9), (None, 0), (float("nan"), 0), ("1", 0)):
        page.atlas.root._trigger_event(Tap(page.atlas.root, x=x, y=y))
    assert atlas.state.view == "clouds"


def test_all_colourings_of_all_heads_are_drawn(atlas):
    for by in ("position", "document", "norm", "entropy", "token_class"):
        atlas.dispatch(Change({"color_by": by}))
        later(atlas)
        (picture,) = data(atlas, "clouds-image")["image"]
        used = np.unique(picture[(picture > 0) & (picture < FIRST_DIM)].astype(int) - 1) // DENSITIES
        assert len(set(used)) > 2


def test_cells_of_the_atlas_of_heads_show_the_same_clouds_by_side(atlas):
    (expected,) = data(atlas, "clouds-image")["image"]
    atlas.dispatch(Change({"view": "overview", "show": "cloud", "color_by": "position"}))
    later(atlas)
    (picture,) = data(atlas, "cloud-thumbnails")["image"]
    assert np.array_equal(picture, expected)
    missing = data(atlas, "missing")
    assert sorted(zip(missing["x"], missing["y"], strict=True)) == [(3, -2), (3, 0)]
    assert notes(atlas)["cells"] == "queries blue, keys orange; 1 too unfaithful to be read (grey)"
    assert not atlas.atlas.bar.visible
    assert atlas.atlas.rects.glyph.fill_alpha == 0
    assert len(data(atlas, "thumbnails")["image"]) == 0
    assert atlas.atlas.cloud_mapper.palette == list(palette("side", False))
    atlas.dispatch(Change({"theme": "dark"}))
    assert atlas.atlas.cloud_mapper.palette == list(palette("side", True))
    atlas.dispatch(Change({"show": "statistic"}))
    assert len(data(atlas, "cloud-thumbnails")["image"]) == len(data(atlas, "missing")["x"]) == 0
    assert atlas.atlas.bar.visible
    assert atlas.atlas.rects.glyph.fill_alpha == 1
    assert notes(atlas)["cells"] == ""


def test_clouds_in_cells_move_with_their_heads_and_follow_the_projection(opened):
    session = open_page(opened["clouds"], show="cloud")
    later(session)
    (before,) = data(session, "cloud-thumbnails")["image"]
    session.dispatch(Change({"order": "value"}))
    later(session)
    (after,) = data(session, "cloud-thumbnails")["image"]
    size = before.shape[0] // 3
    places = zip(session.run.index, data(session, "heads")["x"], strict=True)
    moved = 0
    for (site, head), x in places:
        rows = slice((2 - site) * size, (3 - site) * size)
        column = int(x) * size
        moved += int(x) != head
        assert np.array_equal(after[rows, column : column + size], before[rows, head * size : (head + 1) * size])
    assert moved > 2
    session.dispatch(Change({"projection": "pca"}))
    later(session)
    (components,) = data(session, "cloud-thumbnails")["image"]
    assert not np.array_equal(components, after)
    assert notes(session)["cells"] == "queries blue, keys orange"  # the stored figures judge the layout


def test_a_run_without_an_embedding_says_so_and_shows_components(opened):
    session = open_page(opened["bert_like"], show="cloud")
    later(session)
    assert notes(session)["cells"].startswith("No clouds: the run has no embedding: attnengine embed")
    session.dispatch(Change({"projection": "pca"}))
    later(session)
    assert all(picture.any() for picture in data(session, "cloud-thumbnails")["image"])


def test_a_thousand_heads_are_read_a_little_at_a_time_and_another_choice_ends_it(opened):
    session = open_page(opened["thousand"], show="cloud", projection="pca")
    assert notes(session)["cells"].startswith("reading the clouds: ")
    assert len(data(session, "cloud-thumbnails")["image"]) == 0
    session.dispatch(Change({"show": "statistic"}))
    later(session)
    assert notes(session)["cells"] == ""
    assert len(data(session, "cloud-thumbnails")["image"]) == 0
    session.dispatch(Change({"show": "cloud"}))
    later(session)
    assert sum(picture.size for picture in data(session, "cloud-thumbnails")["image"]) < 500_000


def notes(session):
    return json.loads(session.wire.shown)["notes"]
