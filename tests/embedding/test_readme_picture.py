"""README's picture of faithfulness shows what the table says, and its script draws it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

import attnengine as ae
from attnengine.embedding.faithfulness import LEAST_KEYS
from attnengine.embedding.order import read
from attnengine.embedding.pipeline import embed_run
from attnengine.embedding.settings import EmbedSettings
from examples.pictures import clouds


def test_the_pairs_drawn_are_those_that_faithfulness_is_measured_on(bert_copy, tmp_path):
    embed_run(bert_copy, EmbedSettings(epochs=20, clusters=False), layers=[0, 3], heads=[1, 2], jobs=1)
    run = ae.open_run(bert_copy)
    data, places = read(run, 3, 2), run.embedding(3, 2).points.reshape(2, -1, 2).astype(float)
    found = []
    for i in range(len(data.queries)):
        j = clouds.visible(data.seen, i)
        if len(j) >= LEAST_KEYS:
            distance = np.linalg.norm(places[0, i] - places[1, j], axis=1)
            found.append(spearmanr(distance, data.keys[j].astype(float) @ data.queries[i].astype(float))[0])
    row = run.clouds.set_index(["site", "head"]).loc[3, 2]
    assert np.mean(found) == pytest.approx(row.faithfulness_2d, abs=1e-9)
    distances, scores = clouds.ranked_pairs(run, 3, 2)
    assert np.corrcoef(distances, scores)[0, 1] == pytest.approx(row.faithfulness_2d, abs=0.1)
    clouds.draw(run, tmp_path / "clouds.png")
    assert (tmp_path / "clouds.png").read_bytes().startswith(b"\x89PNG")
