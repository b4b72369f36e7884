"""The numbers behind head view, model view and heatmap, against the patterns they come from."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine_explorer.sentence.heatmap import edges, heatmap
from attnengine_explorer.sentence.lines import lines
from attnengine_explorer.sentence.thumbnails import compose, joined, thumbnail_size, thumbnails
from attnengine_explorer.sentence.tokens import labels, shown, windows
from tests.explorer.sentences import sentence, tokens

WORDS = ["[CLS]", "a", "b", "a", "[SEP]", "c", "d", "[SEP]"]


def test_lines_hold_every_weight_of_every_head_between_the_two_windows():
    call = sentence(WORDS).attentions[1]
    special = np.array([word.startswith("[") for word in WORDS])
    found = lines(call, special, slice(2, 6), slice(1, 8))
    dense = np.zeros((3, 4, 7))
    dense[found.head, found.query, found.key] = found.weight
    for head in range(3):
        pattern = call.pattern(head)
        assert np.abs(dense[head] - pattern[2:6, 1:8]).max() <= 1e-7
        assert np.abs(found.rest[head] - pattern[2:6][:, ~special].sum(axis=1)).max() <= 1e-7
    assert found.floor == 0.0


def test_of_too_many_lines_the_heaviest_are_kept_and_the_floor_says_so():
    call = sentence(["x"] * 40).attentions[0]
    found = lines(call, np.zeros(40, dtype=bool), slice(0, 40), slice(0, 40), most=1000)
    every = np.concatenate([call.pattern(head).ravel() for head in range(3)]).astype(np.float32)
    assert len(found.weight) == 1000
    assert found.weight.min() > found.floor
    assert found.floor == np.sort(every)[-1001]


def test_a_heatmap_of_a_short_text_is_the_pattern_and_of_a_long_one_the_largest_of_each_block():
    call = sentence(["x"] * 37).attentions[0]
    exact = heatmap(call, 2)
    assert exact.exact
    assert np.abs(exact.image - call.pattern(2)).max() <= 1e-7
    coarse = heatmap(call, 2, most=10)
    assert not coarse.exact
    assert coarse.image.shape == (10, 10)
    pattern, cut = call.pattern(2), coarse.row_edges
    for r in range(10):
        for c in range(10):
            assert coarse.image[r, c] == np.float32(pattern[cut[r] : cut[r + 1], cut[c] : cut[c + 1]].max())


@pytest.mark.parametrize(("n", "most"), [(1, 5), (5, 5), (7, 5), (2000, 350)])
def test_blocks_cover_every_place_once_and_differ_by_one_at_most(n, most):
    cut = edges(n, most)
    assert cut[0] == 0
    assert cut[-1] == n
    assert len(cut) - 1 == min(n, most)
    assert set(np.diff(cut)) <= {n // min(n, most), n // min(n, most) + 1}


def test_a_thumbnail_is_the_pattern_of_its_head_and_says_where_it_looks_most():
    one = sentence(WORDS, segment=[0, 0, 0, 0, 0, 1, 1, 1])
    found = thumbnails(one, [(0, 0), (1, 2)])
    pattern = one.attentions[1].pattern(2)
    picture = found.pictures[1, 2]
    step = found.size // len(WORDS)
    levels = 1 + np.round(254 * np.sqrt(pattern.astype(np.float32)))
    assert np.array_equal(picture[::step, ::step][:8, :8], levels.astype(np.uint8))
    i, j = np.unravel_index(pattern.argmax(), pattern.shape)
    assert found.strongest[1, 2] == f"{WORDS[i]} → {WORDS[j]} {pattern[i, j]:.3g}"
    across = thumbnails(one, [(1, 2)], "ab").pictures[1, 2]
    assert (across[::step, ::step][5:] == 1).all()
    assert (across[::step, ::step][:5, 5:] > 1).all()


def test_the_composed_picture_has_each_head_in_its_place_and_stays_small_for_a_thousand_heads():
    one = sentence(WORDS)
    found = thumbnails(one, [(0, 0), (1, 2)])
    picture = compose(found.pictures, {(0, 0): (0, 0), (1, 2): (1, 1)}, found.size)[::-1]
    cell = found.size + 2
    assert np.array_equal(picture[1 : 1 + found.size, 1 : 1 + found.size], found.pictures[0, 0])
    assert np.array_equal(picture[cell + 1 : cell + 1 + found.size, cell + 1 : -1], found.pictures[1, 2])
    assert not picture[:cell, cell:].any()
    assert (thumbnail_size(1024) + 2) ** 2 * 1024 <= 450_000


def test_pairs_between_two_sentences_are_those_of_their_segments():
    both = tokens(["a", "b", "c"], segment=[0, 0, 1])
    assert joined(both, both, "all").all()
    assert np.array_equal(joined(both, both, "ba"), [[0, 0, 0], [0, 0, 0], [1, 1, 0]])


def test_tokens_are_written_with_visible_space_and_without_what_would_move_the_pen():
    assert shown(" the\n") == "␣the↵"
    assert shown("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert shown("x" * 10_000) == "x" * 17 + "…"
    assert labels(tokens(["[CLS]", "<img onerror=1>"])) == ["[CLS]", "<img␣onerror=1>"]


def test_a_window_past_the_end_is_the_last_full_one():
    assert windows(10, 4, 4) == slice(4, 8)
    assert windows(10, 9, 4) == slice(6, 10)
    assert windows(3, 0, 128) == slice(0, 3)
