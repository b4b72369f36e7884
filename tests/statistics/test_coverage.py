"""Intervals cover the truth as often as they say: over invented skewed documents, and over a real model's own."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine.statistics import uncertainty


def plain_interval(sums, counts):
    """The formula of ``ratio_interval`` for one head, in loops."""
    from scipy import stats

    used = [g for g in range(len(sums)) if counts[g]]
    n = len(used)
    x = sum(sums[g] for g in used) / sum(counts[g] for g in used)
    parts = [sums[g] - x * counts[g] for g in used]
    square = sum(part**2 for part in parts)
    se = np.sqrt(n / (n - 1) * square) / sum(counts[g] for g in used)
    effective = sum(counts[g] for g in used) ** 2 / sum(counts[g] ** 2 for g in used)
    t = stats.t.ppf(0.975, effective - 1)
    skew = (sum(part**3 for part in parts) / n) / (square / n) ** 1.5
    shift = skew * (1 + 2 * t**2) / (6 * n**0.5) * se
    return x - t * se + min(shift, 0), x + t * se + max(shift, 0)


def test_an_interval_follows_its_formula():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (60, 2)).astype(float)
    sums = counts * rng.exponential(1, (60, 2))
    counts[7, 1] = sums[7, 1] = 0.0
    lo, hi = uncertainty.ratio_interval(sums, counts)
    for head in range(2):
        assert (lo[head], hi[head]) == pytest.approx(plain_interval(sums[:, head], counts[:, head]), rel=1e-12)
    again = uncertainty.jackknife_interval(uncertainty.mean, counts, sums)
    np.testing.assert_allclose(again, (lo, hi), rtol=0.02)  # of a ratio, the jackknife says nearly the same


def test_few_or_very_uneven_documents_declare_no_interval():
    many, few = np.ones((40, 1)), np.ones((20, 1))
    rng = np.random.default_rng(1)
    assert np.isfinite(uncertainty.ratio_interval(many * rng.random((40, 1)), many)).all()
    assert np.isnan(uncertainty.ratio_interval(few * rng.random((20, 1)), few)).all()
    uneven = np.where(np.arange(40)[:, None] == 0, 100.0, 1.0)
    assert uncertainty.effective_groups(uneven)[0] < 2
    assert np.isnan(uncertainty.ratio_interval(uneven, uneven)).all()
    assert np.isnan(uncertainty.bootstrap_interval(np.ones((9, 1)), np.array([1]))).all()


@pytest.mark.parametrize("skew", [0.2, 0.4, 0.6])
def test_intervals_cover_the_mean_of_skewed_documents(skew):
    """500 corpora of 60 documents drawn from 200, log-normal effects, uneven lengths, 20 heads."""
    rng = np.random.default_rng(int(10 * skew))
    counts = rng.integers(50, 400, (200, 1)).astype(float) * np.ones((1, 20))
    sums = counts * np.exp(rng.normal(0, skew, (200, 20)))
    truth = sums.sum(0) / counts.sum(0)
    hits = np.zeros(20)
    for _ in range(500):
        drawn = rng.integers(0, 200, 60)
        lo, hi = uncertainty.ratio_interval(sums[drawn], counts[drawn])
        hits += (lo <= truth) & (truth <= hi)
    assert 0.93 <= (hits / 500).mean() <= 0.97
    assert (hits / 500).min() >= 0.9


def test_bootstrap_weights_are_those_of_resampling_with_replacement():
    weights = uncertainty.bootstrap_weights(50, 999, seed=0)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, uncertainty.bootstrap_weights(50, 999, seed=0))
    assert not np.array_equal(weights, uncertainty.bootstrap_weights(50, 999, seed=1))
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # multinomial
    sums = np.random.default_rng(0).random((50, 3, 4))
    np.testing.assert_allclose(uncertainty.resampled(sums, weights)[7], np.einsum("g,gab->ab", weights[7], sums))


#: Skewness of what documents add to an error, above which one of 207 decides: a corpus drawn without it looks safe and
#: misses, whatever the method. Coverage of single heads is promised below it.
TAME = 6.5


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The group sums of MiniLM over Python's topics, cut into documents of about 2,000 characters, 20,000 sampled."""
    from transformers import AutoModel, AutoTokenizer

    import attnengine as ae
    from attnengine.bundled import bundled_documents, bundled_model
    from attnengine.corpus.sources import SourceOptions, read_corpus
    from attnengine.run.planned import planned
    from attnengine.run.types import stored_sums

    folder = tmp_path_factory.mktemp("coverage")
    (folder / "topics.txt").write_text("\n\n".join(text for _, text in bundled_documents()))
    texts = [document.text for document in read_corpus(str(folder / "topics.txt"), SourceOptions())]
    model, tokenizer = AutoModel.from_pretrained(bundled_model()), AutoTokenizer.from_pretrained(bundled_model())
    run = ae.analyze(model, tokenizer, texts, output=folder / "run", sample=20_000)
    sums = stored_sums(planned(run.path), prefix="")
    assert len(next(iter(sums[0].grouped.values()))) >= 40
    return sums


def drawn_sums(one, drawn):
    """The sums of a site over the drawn groups."""
    from attnengine.statistics.accumulate import SiteSums

    return SiteSums(one.pilot, {name: value[drawn] for name, value in one.grouped.items()})


@pytest.mark.acceptance
def test_2000_corpora_resampled_from_a_real_run_are_covered_in_every_column(stored):
    from attnengine.statistics.intervals import head_intervals

    rng, hits, n = np.random.default_rng(0), {}, 2000
    truth = [point_estimates(one) for one in stored]
    for _ in range(n):
        drawn = rng.integers(0, len(stored[0].grouped["n_queries"]), len(stored[0].grouped["n_queries"]))
        for site, one in enumerate(stored):
            found = head_intervals(12, drawn_sums(one, drawn), "all")
            for name, x in truth[site].items():
                inside = (found[f"{name}_lo"] <= x) & (x <= found[f"{name}_hi"])
                hits.setdefault(name, np.zeros((len(stored), 12)))[site] += inside
    coverage = {name: hit / n for name, hit in hits.items()}
    assert len(coverage) >= 22
    print({name: (round(c.mean(), 3), c.min()) for name, c in coverage.items()})
    assert {name: c.mean() for name, c in coverage.items() if not 0.93 <= c.mean() <= 0.97} == {}
    tame = {name: np.stack([skewness(one, name) <= TAME for one in stored]) for name in coverage}
    assert np.mean([part.mean() for part in tame.values()]) > 0.95
    assert {name: c[tame[name]].min() for name, c in coverage.items() if c[tame[name]].min() < 0.9} == {}
    assert min(c.min() for c in coverage.values()) >= 0.85  # 0.88 was seen


def skewness(one, name):
    """(h,) of what each group adds to a ratio's error; 0 for what is no ratio."""
    if name not in one.grouped:
        return np.zeros(12)
    sums = one.grouped[name].numpy()
    counts = np.broadcast_to(one.grouped[f"{name}_n"].numpy(), sums.shape)
    parts = sums - sums.sum(0) / counts.sum(0) * counts
    return np.abs((parts**3).mean(0)) / np.maximum((parts**2).mean(0), 1e-300) ** 1.5


def point_estimates(one):
    """(h,) of every column with an interval, from all groups."""
    grouped = {name: value.numpy() for name, value in one.grouped.items()}
    from attnengine.statistics.catalogue import HEADS

    means = [name for name, entry in HEADS.items() if entry.has_error and name in grouped]
    out = {
        name: uncertainty.ratio(grouped[name], np.broadcast_to(grouped[f"{name}_n"], grouped[name].shape))[0]
        for name in means
    }
    n = grouped["score_mean_n"]
    first = grouped["score_mean"] - n * one.pilot.score.numpy()
    out["score_std"] = uncertainty.jackknife(uncertainty.standard_deviation, n, first, grouped["score_m2"])[0]
    return out


def type_skewness(one, names):
    """Type → (h,) of what each group adds to its score: what the score loses without it."""
    from attnengine.statistics.head_types import TypeSettings, site_columns

    few, groups = TypeSettings(resamples=1), len(one.grouped["type_rows"])
    without = [site_columns(12, drawn_sums(one, np.delete(np.arange(groups), g)), few) for g in range(groups)]
    found = {}
    for name in names:
        scores = np.stack([columns[f"{name}_score"] for columns in without])
        parts = scores.mean(0) - scores
        found[name] = np.abs((parts**3).mean(0)) / np.maximum((parts**2).mean(0), 1e-300) ** 1.5
    return found


@pytest.mark.acceptance
def test_intervals_of_head_types_cover_the_scores_of_a_real_run(stored):
    """300 corpora, three of six layers: each resamples 999 times itself."""
    from attnengine.statistics.head_types import TypeSettings, site_columns

    settings, rng, n = TypeSettings(), np.random.default_rng(1), 300
    coverage, skewed = {}, {}
    for site in (0, 2, 4):
        one = stored[site]
        truth = site_columns(12, one, settings)
        names = [key.removesuffix("_score") for key in truth if key.endswith("_score")]
        groups, hits = len(one.grouped["type_rows"]), {name: np.zeros(12) for name in names}
        for _ in range(n):
            found = site_columns(12, drawn_sums(one, rng.integers(0, groups, groups)), settings)
            for name in names:
                x = truth[f"{name}_score"]
                hits[name] += (found[f"{name}_lo"] <= x) & (x <= found[f"{name}_hi"])
        skewness_here = type_skewness(one, names)
        for name in names:
            coverage.setdefault(name, []).append(hits[name] / n)
            skewed.setdefault(name, []).append(skewness_here[name])
    coverage, skewed = ({name: np.stack(parts) for name, parts in of.items()} for of in (coverage, skewed))
    print({name: (round(c.mean(), 3), c.min(), skewed[name].max().round(1)) for name, c in coverage.items()})
    assert {name: c.mean() for name, c in coverage.items() if not 0.93 <= c.mean() <= 0.975} == {}
    assert np.mean([(one <= TAME).mean() for one in skewed.values()]) > 0.9
    misses = {name: coverage[name][(coverage[name] < 0.9) & (skewed[name] <= TAME)] for name in coverage}
    assert {name: found for name, found in misses.items() if len(found)} == {}
    # Three of 396 scores lie below: repeats in L4H4 (0.82, 0.84), the next token in L0H2, whose score is 7e-7 (0.76).
    assert sum(int((c < 0.9).sum()) for c in coverage.values()) <= 4
    assert min(c.min() for c in coverage.values()) >= 0.7
