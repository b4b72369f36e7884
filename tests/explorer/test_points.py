"""The numbers behind the clouds: raster, polygon, search, lassos, colours, summaries — each against an oracle."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine.embedding.init import principal_axes
from attnengine.errors import EmbeddingError
from attnengine_explorer.points import lasso, raster, raster_reference
from attnengine_explorer.points.attended import among, attending, top_keys
from attnengine_explorer.points.colouring import COLOUR_BY, OF_IMAGES, colouring, offered, values
from attnengine_explorer.points.composed import FADED, Look, cell, cell_size, pixels, place
from attnengine_explorer.points.context import around, links, neighbours
from attnengine_explorer.points.heads import HeadClouds, components
from attnengine_explorer.points.labels import Label, fitting, labels
from attnengine_explorer.points.palette import levels, palette, rgba
from attnengine_explorer.points.polygon import inside, nearest
from attnengine_explorer.points.raster import DENSITIES, FIRST_DIM, LEVELS, Marks, Window, rasterise
from attnengine_explorer.points.search import Vocabulary
from attnengine_explorer.points.summary import summarise
from attnengine_explorer.points.turning import seen
from attnengine_explorer.points.wording import visible
from attnengine_explorer.run_data import RunData
from tests.explorer.cloud_runs import GREY, NO_CLOUD, NOT_EMBEDDED


@pytest.fixture(scope="module")
def clouds(runs) -> HeadClouds:
    return HeadClouds(RunData(runs["clouds"]))


@pytest.fixture(scope="module")
def patches(runs) -> HeadClouds:
    return HeadClouds(RunData(runs["patches"]))


@given(
    m=st.integers(0, 300), radii=st.sampled_from([(0,), (2,), (0, 1, 3)]), classes=st.booleans(),
    seed=st.integers(0, 2**32 - 1), side=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_raster_has_the_bytes_of_the_numpy_reference(m, radii, classes, seed, side):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(m, 2)).astype(np.float32)
    marks = Marks(
        rng.integers(0, LEVELS, m).astype(np.uint8), rng.integers(0, len(radii), m).astype(np.uint8),
        rng.random(m) < 0.7, radii, classes,
    )  # fmt: skip
    window = Window(-1.5, 1.2, -0.7, 2, side, side + 3)
    found = rasterise(points, marks, window)
    assert found.dtype == np.uint8
    assert np.array_equal(found, raster_reference.rasterise(points, marks, window))


def test_neither_side_hides_the_other_and_no_order_matters():
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(500, 2)).astype(np.float32), 2, axis=0)  # a query and a key at each place
    level = np.tile([0, LEVELS - 1], 500).astype(np.uint8)
    marks = Marks(level, np.zeros(1000, np.uint8), np.ones(1000, bool))
    window = Window(-4, 4, -4, 4, 60, 60)
    found = rasterise(points, marks, window)
    mixes = (found[found > 0].astype(int) - 1) // DENSITIES
    assert set(mixes) == {(LEVELS - 1) // 2}
    order = rng.permutation(1000)
    shuffled = Marks(level[order], marks.size, marks.shown)
    assert np.array_equal(found, rasterise(points[order], shuffled, window))
    classes = Marks(level, marks.size, marks.shown, classes=True)
    drawn = (rasterise(points, classes, window).astype(int) - 1) // DENSITIES
    share = np.mean(drawn[found > 0] > 0)
    assert 0.4 < share < 0.6  # of two classes at one place, either wins as often


def test_a_denser_pixel_has_a_higher_density_level_and_a_shown_point_covers_dim_ones():
    points = np.array([[0.5, 0.5]] * 40 + [[1.5, 0.5]] * 4 + [[2.5, 0.5], [3.5, 0.5], [3.5, 0.5]], np.float32)
    shown = np.array([True] * 45 + [True, False])
    marks = Marks(np.zeros(47, np.uint8), np.zeros(47, np.uint8), shown)
    row = rasterise(points, marks, Window(0, 5, 0, 1, 5, 1))[0]
    assert row[0] == DENSITIES
    assert row[0] > row[1] > row[2] == row[3] == 1
    assert row[4] == 0
    only_dim = Marks(marks.level, marks.size, np.zeros(47, bool))
    assert (rasterise(points, only_dim, Window(0, 5, 0, 1, 5, 1))[0][:4] >= FIRST_DIM).all()


def test_every_code_has_a_colour_of_its_kind_and_nothing_is_transparent_but_nothing():
    for kind in ("side", "sequential", "classes"):
        for dark in (False, True):
            colours = palette(kind, dark)
            assert len(colours) == 256
            assert colours[0].endswith("00")
            assert len(set(levels(kind, dark))) == LEVELS
            for level in (0, 7, LEVELS - 1):
                ramp = colours[1 + level * DENSITIES : 1 + (level + 1) * DENSITIES]
                assert {colour[:7].lower() for colour in ramp} == {levels(kind, dark)[level].lower()}
                assert sorted(colour[7:] for colour in ramp) == [colour[7:] for colour in ramp]
                assert ramp[-1].endswith("ff")
    picture = rgba(np.array([[0], [1]], np.uint8), palette("side", False))
    assert picture[0, 0].tolist()[:3] == [0, 0x72, 0xB2]  # Okabe–Ito blue, the upper row
    assert picture[1, 0, 3] == 0


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_polygon_holds_what_it_goes_around_by_exact_arithmetic(corners, seed):
    points = (np.random.default_rng(seed).integers(-40, 40, (30, 2)) / 4 + 0.125).astype(np.float32)
    found = inside(points, np.array(corners, float))
    assert found.tolist() == [winding(x, y, corners) != 0 for x, y in points.tolist()]


def winding(x: float, y: float, corners: list[tuple[int, int]]) -> int:
    """Crossings of the ray to the right, upward ones less downward ones, in fractions."""
    number = 0
    px, py = Fraction(x), Fraction(y)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (ay <= py) == (by <= py):
            continue
        at = ax + Fraction(bx - ax) * (py - ay) / (by - ay)
        if at > px:
            number += 1 if by > ay else -1
    return number


@pytest.mark.parametrize("polygon", [[[0, 0], [1, 1]], [[0, 0], [1, 1], [np.nan, 0]], [0, 1, 2]])
def test_half_a_polygon_is_refused(polygon):
    with pytest.raises(ValueError, match="three finite corners"):
        inside(np.zeros((3, 2), np.float32), np.array(polygon, float))


def test_the_nearest_point_is_the_one_of_a_kd_tree_in_pixels():
    from scipy.spatial import KDTree

    points = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    tree = KDTree(points * [3.0, 50.0])
    for x, y in np.random.default_rng(3).normal(size=(50, 2)):
        distance, number = tree.query([3 * x, 50 * y])
        assert nearest(points, x, y, (3, 50)) == (number, pytest.approx(distance, rel=1e-5))
    assert nearest(points[:0], 0, 0, (1, 1)) == (-1, np.inf)


def vocabulary(*texts: str | None) -> Vocabulary:
    import pyarrow as pa

    return Vocabulary(pa.array(texts, pa.string()))


def test_search_finds_by_text_and_overlooks_what_tokenizers_put_before_a_word():
    words = vocabulary("the", " the", "The", "##the", "then", "other", None, "the")
    assert words.find("the", "exact").tolist() == [True, True, True, True, False, False, False, True]
    assert words.find("The", "exact").tolist() == [False, False, True, False, False, False, False, False]
    assert words.find(" the", "exact").tolist() == [False, True, False, False, False, False, False, False]
    assert words.find("the", "prefix").tolist() == [True, True, True, True, True, False, False, True]
    assert words.find("^the$|oth", "regex").tolist() == [True, False, True, False, False, True, False, True]
    assert vocabulary(None, None).find("x", "exact").tolist() == [False, False]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", "a{1,500}a{1,500}$", "(?:a?){30}a{30}"])
def test_no_pattern_freezes_the_search(pattern):
    words = vocabulary(*("a" * 60 + str(i) for i in range(2000)), "a" * 10_000)
    begin = time.process_time()
    try:
        words.find(pattern, "regex")
    except ValueError as refused:
        assert "regular expression" in str(refused)  # noqa: PT017  refusing is as good as answering
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("pattern", ["", "x" * 201, "\ud800", "(", "(?=a)"])
def test_a_pattern_that_cannot_be_searched_says_why_in_one_line(pattern):
    with pytest.raises(ValueError, match=r"expected|surrogate|regular expression") as caught:
        vocabulary("a").find(pattern, "regex")
    assert "\n" not in str(caught.value)


def test_a_lasso_comes_back_from_its_link_and_selects_the_same_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5000, 2)).astype(np.float32) * 30
    frame = lasso.frame_of(points)
    angle = np.linspace(0, 2 * np.pi, 300)
    hand = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 20 + rng.normal(0, 0.1, (300, 2))
    place_ = lasso.Place(3, 11, "pca", 3, 45, 10)
    first = lasso.extended(None, place_, frame.to_units(lasso.simplified(hand)), "replace")
    both = lasso.extended(first, place_, frame.to_units(lasso.simplified(hand / 2)), "subtract")
    text = lasso.write(both)
    assert len(text) < 700
    again = lasso.read(text)
    assert again is not None
    assert again.place == place_
    assert lasso.write(again) == text
    outer, inner = (frame.to_plane(corners) for _, corners in again.loops)
    assert [adds for adds, _ in again.loops] == [True, False]
    assert inside(points, outer).sum() == pytest.approx(inside(points, hand).sum(), rel=0.01)
    assert inside(points, inner).sum() < inside(points, outer).sum()
    assert lasso.extended(both, lasso.Place(0, 0, "pca"), first.loops[0][1], "add").loops[0][0] is True
    assert len(lasso.extended(both, lasso.Place(0, 0, "pca"), first.loops[0][1], "add").loops) == 1
    assert lasso.read("") is None


@pytest.mark.parametrize("text", [
    "x", "0.0.layout.2.0.0", "0.0.layout.2.0.0|+aa", "0.0.tsne.2.0.0|+" + "0" * 18, "0.0.pca.2.0.0|*" + "0" * 18,
    "0.0.pca.4.0.0|+" + "0" * 18, "0.0.pca.2.0.0" + ("|+" + "0" * 18) * 7, "0.0.pca.2.0.0|+" + "A" * 18,
])  # fmt: skip
def test_a_strange_lasso_of_a_link_is_refused(text):
    with pytest.raises(ValueError, match="expected a lasso"):
        lasso.read(text)


def test_too_many_loops_are_refused():
    before = lasso.read("0.0.pca.2.0.0" + ("|+" + "0" * 18) * lasso.LOOPS)
    assert before is not None
    with pytest.raises(ValueError, match="at most 6 loops"):
        lasso.extended(before, before.place, before.loops[0][1], "add")


def test_components_are_the_principal_axes(clouds):
    vectors = clouds.vectors(1, 1)
    expected, shares = principal_axes(vectors, 3)
    found, told = components(vectors)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(told, shares, rtol=1e-9)


def test_a_turned_cloud_is_a_rotation_seen_from_the_front():
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    middle = (points.min(0) + points.max(0)) / 2
    np.testing.assert_allclose(seen(points, 3, 0, 0), (points - middle)[:, :2], atol=1e-6)
    np.testing.assert_allclose(seen(points, 3, 90, 0), (points - middle)[:, [2, 1]], atol=1e-6)
    np.testing.assert_allclose(seen(points, 3, 0, 90), (points - middle)[:, [0, 2]] * [1, -1], atol=1e-6)
    assert np.array_equal(seen(points, 2, 77, 8), points[:, :2])
    with pytest.raises(ValueError, match="expected 3 coordinates"):
        seen(points[:, :2], 3, 0, 0)


def test_every_colouring_is_the_number_of_the_table_behind_it(clouds):
    run, n = clouds.run.run, len(clouds.tokens)
    tokens = run.tokens
    expected = {
        "side": np.repeat([0, 1], n), "position": np.tile(tokens.position, 2),
        "position_mod5": np.tile(tokens.position % 5, 2), "document": np.tile(tokens.document, 2),
        "norm": np.concatenate([np.linalg.norm(a[:, 2].astype(float), axis=1) for a in (run.queries(1), run.keys(1))]),
        "entropy": np.concatenate([run.row_entropy(1)[:, 2], np.full(n, np.nan)]),
        "frequency": np.tile(tokens.groupby("token_id")["token"].transform("size"), 2),
        "position_share": np.tile(tokens.position / tokens.groupby("window")["position"].transform("max"), 2),
    }  # fmt: skip
    for by, numbers in expected.items():
        found = values(clouds, 1, 2, by)
        np.testing.assert_allclose(found, numbers, rtol=1e-6, err_msg=by)
        made = colouring(clouds, by, found)
        assert made.level.dtype == np.uint8
        assert made.level.max() < LEVELS
        assert np.array_equal(made.known, np.isfinite(found))
        if made.kind == "sequential":
            assert (
                np.diff(made.level[made.known][np.argsort(found[made.known], kind="stable")].astype(int)) >= 0
            ).all()
    assert set(expected) | {"token_class"} == set(offered(clouds)) == set(COLOUR_BY) - set(OF_IMAGES)


def test_documents_have_their_names_and_a_colour_each(clouds):
    made = colouring(clouds, "document", values(clouds, 0, 0, "document"))
    for place_, name in enumerate(made.names[:5]):
        of_name = {int(d) for d in np.tile(clouds.tokens.document, 2)[made.level == place_]}
        assert of_name == {int(name.removeprefix("corpus/report-").removesuffix(".txt"))}


def test_token_classes_are_those_of_the_text(clouds):
    from attnengine_explorer.points.tokens import TOKEN_CLASSES

    tokens = clouds.tokens
    named = np.array(TOKEN_CLASSES)[tokens.token_class]
    table = clouds.run.run.tokens
    assert set(named[table.is_special.to_numpy()]) == {"special"}
    plain = ~table.is_special.to_numpy()
    assert set(named[plain & table.is_punctuation.to_numpy()]) == {"punctuation"}
    assert set(named[plain & (table.text == "2024").to_numpy()]) == {"digit"}
    assert set(named[plain & (table.text == " sat").to_numpy()]) == {"word start"}
    assert set(named[plain & (table.text == "\n").to_numpy()]) == {"other"}


def test_a_word_goes_on_where_the_text_has_no_gap():
    import pandas as pd

    from attnengine_explorer.points.tokens import TOKEN_CLASSES, read_tokens

    table = pd.DataFrame({
        "window": [0] * 5 + [1], "position": [7, 8, 9, 10, 11, 3], "token_id": 0, "is_special": False,
        "is_punctuation": [False] * 6, "text": ["sub", "way", "line", "(", "s", "un"],
        "text_start": [0, 3, 7, 11, 12, 40], "text_end": [3, 6, 11, 12, 13, 42],
    })  # fmt: skip
    named = [TOKEN_CLASSES[c] for c in read_tokens(table, None).token_class]
    assert named == ["unknown", "inside a word", "word start", "other", "word start", "unknown"]


def test_patches_are_coloured_by_row_and_column(patches):
    table = patches.run.run.tokens
    for by, numbers in (("row", table.row), ("col", table.col), ("patch", 8 * table.row + table.col)):
        found = values(patches, 0, 1, by)
        assert np.array_equal(np.isnan(found), np.tile(table.row < 0, 2))
        np.testing.assert_array_equal(found[np.isfinite(found)], np.tile(numbers[table.row >= 0], 2))
    assert {"row", "col", "patch"} <= set(offered(patches))
    assert not {"frequency", "token_class"} & set(offered(patches))
    assert patches.tokens.vocabulary.find("a", "prefix").sum() == 0


def test_a_summary_equals_brute_force_over_the_tables(clouds):
    run, n = clouds.run.run, len(clouds.tokens)
    chosen = clouds.cloud(1, 1, "layout").labels == 3
    found = summarise(clouds, 1, 1, chosen)
    q_rows, k_rows = np.flatnonzero(chosen[:n]), np.flatnonzero(chosen[n:])
    assert (found.queries, found.keys) == (len(q_rows), len(k_rows))
    tokens, rows = run.tokens, np.concatenate([q_rows, k_rows])
    assert found.quartiles == tuple(np.percentile(tokens.position[rows], (25, 50, 75)))
    assert found.positions.sum() == len(rows)
    for name, count, share in found.documents:
        number = int(name.removeprefix("corpus/report-").removesuffix(".txt"))
        assert count == (tokens.document[rows] == number).sum()
        assert share == count / len(rows)
    for text, count, everywhere, odds in found.tokens:
        assert count == (tokens.text[rows] == text).sum()
        assert everywhere == 2 * (tokens.text == text).sum()
        assert odds > 1.96
    assert {text for text, *_ in found.tokens} <= {"(", "2024"} | set(tokens.text[tokens.token_id % 7 == 3])
    assert found.attention is not None
    by_place = {(w, p): i for i, (w, p) in enumerate(zip(tokens.window, tokens.position, strict=True))}
    lassoed = sampled = total = 0.0
    for i in q_rows:
        for at, weight in zip(run.top_keys(1)[i, 1], run.top_weights(1)[i, 1], strict=True):
            key = by_place.get((tokens.window[i], at))
            total += weight
            sampled += weight * (key is not None)
            lassoed += weight * (key is not None and chosen[n + key])
    shares = np.array([lassoed, sampled, total]) / len(q_rows)
    attention = found.attention
    np.testing.assert_allclose((attention.lassoed, attention.sampled, attention.stored), shares, rtol=1e-6)
    assert attention.lassoed < attention.sampled < attention.stored < 1


def test_the_neurons_of_a_summary_are_the_mean_over_all_lassoed_pairs(clouds):
    n = len(clouds.tokens)
    chosen = clouds.cloud(1, 1, "layout").labels == 2
    found = summarise(clouds, 1, 1, chosen).neurons
    assert found is not None
    queries = clouds.run.run.queries(1)[:, 1].astype(float)
    keys = clouds.run.run.keys(1)[:, 1].astype(float)
    scale = clouds.run.sites[1].scale
    pairs = scale * queries[chosen[:n]][:, None] * (keys - keys.mean(0))[chosen[n:]][None]  # (q, k, d)
    np.testing.assert_allclose(found.contribution, pairs.mean(axis=(0, 1)), rtol=1e-5, atol=1e-7)
    assert found.total == pytest.approx(pairs.sum(-1).mean(), rel=1e-5)
    sizes = [abs(value) for _, value in found.largest()]
    assert sizes == sorted(sizes, reverse=True)
    only_keys = chosen & (np.arange(2 * n) >= n)
    assert summarise(clouds, 1, 1, only_keys).neurons is None


def test_lines_of_a_query_are_its_stored_top_keys_and_of_a_key_those_who_list_it(clouds):
    run, n = clouds.run.run, len(clouds.tokens)
    tokens = run.tokens
    found = links(clouds, 2, 1, 70)
    assert [link.position for link in found] == run.top_keys(2)[70, 1].tolist()
    np.testing.assert_allclose([link.weight for link in found], run.top_weights(2)[70, 1])
    for link in found:
        if link.row >= 0:
            assert (tokens.window[link.row], tokens.position[link.row]) == (tokens.window[70], link.position)
        else:
            assert not ((tokens.window == tokens.window[70]) & (tokens.position == link.position)).any()
    assert any(link.row < 0 for link in found)
    key = next(link.row for link in found if link.row >= 0)
    back = dict(attending(clouds, 2, 1, key))
    assert back[70] == pytest.approx(next(link.weight for link in found if link.row == key))
    assert all(key in top_keys(clouds, 2, 1, np.array([row])).rows[0] for row in back)
    listed = links(clouds, 2, 1, n + key)
    assert [link.weight for link in listed] == sorted((link.weight for link in listed), reverse=True)
    assert among(clouds, 2, 1, np.array([], int), np.zeros(n, bool)).n_queries == 0


def test_neighbours_are_the_nearest_in_the_heads_space(clouds):
    vectors = clouds.vectors(0, 1).astype(float)
    expected = vectors @ vectors[9]
    found = neighbours(clouds, 0, 1, 9)
    assert 9 not in [point for point, _ in found]
    best = np.sort(np.delete(expected, 9))[::-1][: len(found)]
    np.testing.assert_allclose([cosine for _, cosine in found], best, rtol=1e-5)
    np.testing.assert_allclose([expected[point] for point, _ in found], best, rtol=1e-5)


def test_the_text_around_a_token_is_its_own_window(clouds):
    rows = around(clouds, 66)
    tokens = clouds.run.run.tokens
    assert set(tokens.window[rows]) == {tokens.window[66]}
    assert np.diff(tokens.position[rows]).tolist() == [1] * (len(rows) - 1)
    assert rows.tolist() == list(range(64, 81))


def test_labels_cover_nothing_and_stay_inside():
    window = Window(0, 100, 0, 100, 500, 500)
    offered_ = [Label(x, y, "word") for x in range(0, 101, 3) for y in range(0, 101, 2)]
    kept = fitting(offered_, window)
    assert 10 < len(kept) <= 60
    boxes = [(5 * label.x, 5 * label.y) for label in kept]
    for i, (x, y) in enumerate(boxes):
        assert 0 < x < 500
        assert all(abs(x - u) > 30 or abs(y - v) >= 15 for u, v in boxes[:i])


def test_clusters_are_named_by_their_tokens_where_their_points_are(clouds):
    cloud = clouds.cloud(1, 1, "layout")
    frame = lasso.frame_of(cloud.points)
    window = Window(frame.x, frame.x + frame.side, frame.y, frame.y + frame.side, 900, 900)
    found = labels(clouds, cloud, cloud.points, window, "clusters")
    assert found
    names = clouds.token_ids
    expected = {visible(names[c], 14) + " " + visible(names[c + 7], 14): c for c in range(7)}
    for label in found:
        at = np.median(cloud.points[cloud.labels == expected[label.text]], axis=0)
        assert (label.x, label.y) == pytest.approx(tuple(at))
    assert labels(clouds, cloud, cloud.points, window, "none") == []
    words = {visible(text, 18) for text in clouds.run.run.tokens.text}
    assert {label.text for label in labels(clouds, cloud, cloud.points, window, "tokens")} <= words


def test_what_has_no_cloud_says_why(clouds):
    assert "the same vector" in clouds.problem(*NO_CLOUD)
    assert "was not embedded" in clouds.problem(*NOT_EMBEDDED)
    assert clouds.problem(1, 1) is None
    assert clouds.is_grey(*GREY)
    assert not clouds.is_grey(1, 1)
    for key in (NO_CLOUD, NOT_EMBEDDED):
        with pytest.raises(EmbeddingError):
            clouds.cloud(*key, "layout")
        assert clouds.cloud(*key, "pca").points.shape == (1280, 3)  # components need no embedding


def test_a_cell_is_the_head_in_small_and_grey_where_the_picture_cannot_be_read(clouds):
    cloud = clouds.cloud(1, 1, "layout")
    at = pixels(cloud, 40)
    level = np.repeat([0, LEVELS - 1], len(at) // 2).astype(np.uint8)
    one = cell(at, Look(level, np.ones(len(at), bool)), 40)
    occupied = np.zeros(1600, bool)
    occupied[at[at < 1600]] = True
    assert np.array_equal(one.ravel() > 0, occupied)
    assert not one[[0, -1]].any()
    assert not one[:, [0, -1]].any()
    assert (at < 1600).mean() > 0.98
    faded = cell(at, Look(level, np.ones(len(at), bool), faded=True), 40)
    assert np.array_equal(faded > 0, one > 0)
    assert set(np.unique(faded)) <= {0, FADED, FADED + 1, FADED + 2}
    picture = np.zeros((80, 120), np.uint8)
    place(picture, one, 1, 2)
    assert np.array_equal(picture[:40, 80:], one)
    assert cell_size(1024) ** 2 * 1024 < 500_000
    assert raster.DIM > 0


def test_control_and_direction_marks_of_a_token_are_shown_not_obeyed():
    assert visible("a\u202eb\x00c\n") == "a◌b◌c↵"
    assert len(visible("x" * 10_000)) == 40
    assert visible(None) == "(text not kept)"
