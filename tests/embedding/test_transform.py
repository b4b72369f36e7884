"""New vectors find their place among old ones, each by itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import attnengine as ae
from attnengine.embedding.pipeline import embed_run
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import EmbeddingError


@pytest.fixture(scope="module")
def embedding(bert_run, tmp_path_factory):
    folder = shutil.copytree(bert_run, tmp_path_factory.mktemp("transform") / "run")
    embed_run(folder, EmbedSettings(clusters=False), layers=[2], heads=[3], jobs=1)
    return ae.open_run(folder).embedding(2, 3)


def test_an_old_vector_is_put_on_its_place(embedding, minilm_head):
    queries, keys = minilm_head
    found = embedding.transform(queries[:5], keys[3:6])
    n = len(queries)
    assert np.array_equal(found, np.concatenate([embedding.points[:5], embedding.points[n + 3 : n + 6]]))


def test_a_batch_changes_no_bit(embedding, minilm_head):
    new = minilm_head[0][:8] + np.float32(0.05)
    together = embedding.transform(new)
    alone = np.concatenate([embedding.transform(row[None]) for row in new[::-1]])[::-1]
    assert np.array_equal(together, alone)


def test_new_vectors_land_near_those_they_resemble(embedding, minilm_head):
    rng = np.random.default_rng(0)
    queries = minilm_head[0]
    new = queries + 0.1 * queries.std() * rng.normal(size=queries.shape).astype(np.float32)
    apart = np.linalg.norm(embedding.transform(new) - embedding.points[: len(queries)], axis=1)
    extent = np.ptp(embedding.points, axis=0).max()
    assert np.median(apart) < 0.03 * extent
    assert np.quantile(apart, 0.9) < 0.2 * extent


def test_vectors_that_do_not_fit_are_refused(embedding):
    with pytest.raises(ValueError, match=r"shape \(n, 32\), got shape \(2, 31\)"):
        embedding.transform(np.zeros((2, 31), np.float32))
    with pytest.raises(ValueError, match="finite vectors"):
        embedding.transform(keys=np.full((1, 32), np.nan, np.float32))
    assert embedding.transform().shape == (0, 2)


def test_other_methods_place_nothing_new(embedding):
    from dataclasses import replace

    other = replace(embedding, settings=EmbedSettings("pca"))
    with pytest.raises(EmbeddingError, match="method pca places no new vectors"):
        other.transform(np.zeros((1, 32), np.float32))
