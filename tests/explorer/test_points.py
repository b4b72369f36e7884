"""What is said of points: colours, summaries, lines, neighbours, labels, each against the tables behind it."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine.embedding.init import principal_axes
from attnengine.errors import EmbeddingError
from attnengine_explorer.points import lasso
from attnengine_explorer.points.attended import among, attending, top_keys
from attnengine_explorer.points.colouring import COLOUR_BY, OF_IMAGES, colouring, offered, values
from attnengine_explorer.points.context import around, links, neighbours
from attnengine_explorer.points.heads import HeadClouds, components
from attnengine_explorer.points.labels import Label, fitting, labels
from attnengine_explorer.points.raster import LEVELS, Window
from attnengine_explorer.points.summary import summarise
from attnengine_explorer.points.wording import visible
from attnengine_explorer.run_data import RunData
from tests.explorer.cloud_runs import GREY, NO_CLOUD, NOT_EMBEDDED


@pytest.fixture(scope="module")
def patches(runs) -> HeadClouds:
    return HeadClouds(RunData(runs["patches"]))


def test_components_are_the_principal_axes(clouds):
    vectors = clouds.vectors(1, 1)
    expected, shares = principal_axes(vectors, 3)
    found, told = components(vectors)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(told, shares, rtol=1e-9)


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
