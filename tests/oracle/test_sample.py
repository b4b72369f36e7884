"""The sampled tokens of a run: their vectors are the hooks', their text is the source's, their place is right."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle.models import CASES

AGREE = 1e-4
TOP = 16
models = pytest.mark.parametrize("name", CASES)


def sampled(one, site, array):
    """Rows of a run's array beside the oracle's heads: (heads of the row's window, position, the row's numbers)."""
    found, tokens = getattr(one.run, array)(site), one.run.tokens
    calls = [calls[site] for calls in one.oracle.calls]
    return [(calls[w], p, row) for w, p, row in zip(tokens.window, tokens.position, found, strict=True)]


@models
@pytest.mark.parametrize(("array", "vector"), [("queries", "query"), ("keys", "key"), ("values", "value")])
def test_sampled_vectors_are_those_of_the_projections(name, array, vector, measured):
    one = measured(name)
    each = one.case.heads // getattr(one.run, array)(0).shape[1]  # query heads a stored head
    assert each == (1 if array == "queries" else one.case.heads // one.case.kv_heads)
    for site in range(len(one.case.layers)):
        rows = sampled(one, site, array)
        expected = np.array([[getattr(head, vector)[p] for head in heads[::each]] for heads, p, _ in rows])
        found = np.array([row for _, _, row in rows])
        np.testing.assert_allclose(found, expected, rtol=AGREE, atol=AGREE * np.sqrt((expected**2).mean()))


@models
def test_sampled_entropy_is_that_of_the_row(name, measured):
    one = measured(name)
    for site in range(len(one.case.layers)):
        for heads, p, row in sampled(one, site, "row_entropy"):
            hats = [head.pattern[p] / head.pattern[p].sum() for head in heads]
            np.testing.assert_allclose(row, [-(hat[hat > 0] @ np.log(hat[hat > 0])) for hat in hats], atol=AGREE)


@models
def test_top_keys_are_the_heaviest_of_the_pattern(name, measured):
    one = measured(name)
    for site in range(len(one.case.layers)):
        weights = one.run.top_weights(site)
        for at, (heads, p, keys) in enumerate(sampled(one, site, "top_keys")):
            for h, head in enumerate(heads):
                pattern = head.pattern[p][head.visible[p]]
                best = np.sort(pattern)[::-1][:TOP]
                np.testing.assert_allclose(weights[at, h, : len(best)], best, atol=1e-5)
                # Near ties may come in either order, so a key is judged by its weight, not by its rank.
                np.testing.assert_allclose(head.pattern[p][keys[h, : len(best)]], best, atol=1e-5)
                assert len(set(keys[h, : len(best)].tolist())) == len(best)
                assert (keys[h, len(best) :] == -1).all()
                assert (weights[at, h, len(best) :] == 0).all()


@models
def test_tokens_say_what_stands_in_the_source(name, measured):
    one = measured(name)
    tokens, windows = one.run.tokens, one.oracle.windows
    assert len(tokens) == sum(window.n_tokens for window in windows)  # three short documents: all are sampled
    for row in tokens.itertuples():
        window = windows[row.window]
        stream = next(iter(window.streams.values()))
        assert (row.document, row.is_special) == (window.document, stream.special[row.position])
        assert row.is_first == (row.position == 0)
        if stream.patch is not None:
            assert (row.row, row.col) == stream.patch[row.position]
            continue
        span = stream.spans[row.position]
        assert (row.token_id, (row.text_start, row.text_end)) == (stream.ids[row.position], span)
        assert row.is_punctuation == stream.punctuation[row.position]
        if span[0] >= 0:
            assert row.text == one.case.documents()[row.document][span[0] : span[1]]
        else:
            assert row.text in one.case.prefix + one.case.suffix


@models
def test_windows_and_documents_are_counted_as_they_were_cut(name, measured):
    one = measured(name)
    windows, found = one.oracle.windows, one.run.windows
    expected = [(n, window.document, window.start, window.n_tokens) for n, window in enumerate(windows)]
    assert list(found[["window", "document", "start", "n_tokens"]].itertuples(index=False, name=None)) == expected
    lengths = [sum(w.n_tokens for w in windows if w.document == document) for document in range(3)]
    assert one.run.documents.n_tokens.tolist() == lengths
    assert len(set(lengths)) == (3 if one.case.grid is None else 1)
    assert one.run.manifest["corpus"]["tokens"] == sum(lengths)
