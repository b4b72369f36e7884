"""README's picture of what faithfulness looks like: ``python -m examples.pictures.clouds RUN [docs/clouds.png]``.

RUN has been embedded (`attnengine embed RUN`). Three of its heads: the most faithful, the one nearest to −0.4, and the
least faithful. Above, the joint cloud; below, pairs of a sampled query and a sampled key that it could see: for each
distance in the picture, how often each score, both as ranks within the query's keys. Along the falling diagonal,
nearer means higher. Needs matplotlib (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

import attnengine as ae
from attnengine.embedding.faithfulness import LEAST_KEYS, Sight
from attnengine.embedding.order import read
from attnengine.opened import Run

WANTED = (-1.0, -0.4, 0.0)
BINS = 24
QUERY, KEY = "#0072B2", "#D55E00"
PAIRS = 60_000  # at most, so that dense and sparse heads are drawn alike


def chosen(run: Run) -> list[dict[str, Any]]:
    """Rows of ``clouds``: the heads nearest to WANTED."""
    rows = run.clouds[run.clouds.problem.isna()]
    return [rows.iloc[int((rows.faithfulness_2d - value).abs().argmin())].to_dict() for value in WANTED]


def ranked_pairs(run: Run, site: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """(pairs,) rank of distance on the screen and rank of score, each from 0 to 1 within the query's visible keys."""
    data = read(run, site, head)
    queries, keys = data.queries.astype(np.float64), data.keys.astype(np.float64)
    points = run.embedding(site, head).points.astype(np.float64)
    places, n = points.reshape(2, len(queries), -1), len(queries)
    distances, scores = [], []
    for i in np.random.default_rng(0).permutation(n):
        j = visible(data.seen, i)
        if len(j) < LEAST_KEYS:
            continue
        distances.append(shares(((places[0, i] - places[1, j]) ** 2).sum(1)))
        scores.append(shares(keys[j] @ queries[i]))
        if sum(map(len, scores)) > PAIRS:
            break
    return np.concatenate(distances), np.concatenate(scores)


def visible(seen: Sight, i: int) -> np.ndarray:
    """The sampled tokens of its own window that query i sees."""
    at = int(np.flatnonzero(seen.order == i)[0])
    which = int(np.searchsorted(seen.starts, at, side="right")) - 1
    mates = seen.order[seen.starts[which] : seen.starts[which + 1]]
    back = seen.position[i] - seen.position[mates]
    return mates[(back <= seen.before) & (-back <= seen.after)]


def shares(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1, equal values sharing theirs."""
    return (rankdata(values) - 1) / (len(values) - 1)


def draw(run: Run, path: Path) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    heads = chosen(run)
    figure, axes = pyplot.subplots(2, len(heads), figsize=(11, 6.6), height_ratios=(1.45, 1))
    for (above, below), row in zip(axes.T, heads, strict=True):
        cloud = run.embedding(row["site"], row["head"])
        order = np.random.default_rng(0).permutation(len(cloud.points))  # neither side hides the other
        colours = np.array([QUERY, KEY])[cloud.side[order]]
        above.scatter(*cloud.points[order].T, c=colours, s=1.6, linewidths=0, rasterized=True)
        low, high = cloud.points.min(0), cloud.points.max(0)
        half = (high - low).max() / 2 * 1.04
        above.set(
            xlim=(low + high)[0] / 2 + np.array([-half, half]), ylim=(low + high)[1] / 2 + np.array([-half, half])
        )
        above.set(aspect="equal", xticks=[], yticks=[])
        said = f"faithfulness {row['faithfulness_2d']:.2f} ± {row['faithfulness_2d_se']:.2f}"
        above.set_title(f"L{row['layer']}H{row['head']}\n{said}{' (grey)' if row['grey'] else ''}", fontsize=10)
        x, y = ranked_pairs(run, row["site"], row["head"])
        counts, *_ = np.histogram2d(x, y, BINS, ((0, 1), (0, 1)))
        shown = (counts / counts.sum(1, keepdims=True)).T * BINS  # 1: as often as by chance
        picture = below.imshow(
            shown, origin="lower", extent=(0, 1, 0, 1), cmap="cividis", vmin=0, vmax=4, aspect="auto"
        )
        below.set(xlabel="distance in the picture, rank", xticks=[0, 1], yticks=[0, 1])
        below.set_xticklabels(["nearest", "farthest"])
        below.set_yticklabels(["lowest", "highest"])
    axes[1, 0].set_ylabel("score, rank")
    axes[0, 0].set_ylabel("queries blue, keys orange")
    for axis in axes.ravel():
        axis.tick_params(length=0, labelsize=8)
        for spine in axis.spines.values():
            spine.set_color("#bbbbbb")
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    bar = figure.colorbar(picture, cax=figure.add_axes((0.93, 0.1, 0.012, 0.26)), ticks=[0, 1, 4])
    bar.ax.set_yticklabels(["0 ×", "1 ×", "≥ 4 ×\nchance"], fontsize=8)
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw README's picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path, nargs="?", default=Path("docs/clouds.png"))
    options = parser.parse_args()
    draw(ae.open_run(options.run), options.picture)


if __name__ == "__main__":
    main()
