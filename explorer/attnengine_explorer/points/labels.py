"""Words on a cloud: what its clusters are, or what its points are, as many as fit without covering one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attnengine_explorer.points.heads import HeadCloud, HeadClouds
from attnengine_explorer.points.raster import Window
from attnengine_explorer.points.wording import visible

MOST = 40
#: Points that are asked in turn whether their text still fits.
CANDIDATES = 1500
_LINE, _LETTER, _MARGIN = 15.0, 6.9, 6.0  # pixels of 12 px monospace
_WORDS = 3


@dataclass(frozen=True)
class Label:
    """A text and where its middle stands."""

    x: float
    y: float
    text: str


def labels(
    clouds: HeadClouds,
    cloud: HeadCloud,
    screen: np.ndarray,
    window: Window,
    what: str,
    emphasised: np.ndarray | None = None,
) -> list[Label]:
    """The labels of a view: "clusters" by the tokens that mark them, "tokens" by points, "none".

    screen: (2n, 2) the cloud as it is seen. emphasised: (2n,) bool, the points that may be named, or None for all.
    """
    if what == "clusters":
        return fitting(_clusters(clouds, cloud, screen), window)
    return fitting(_tokens(clouds, screen, window, emphasised), window) if what == "tokens" else []


def fitting(offered: Iterable[Label], window: Window) -> list[Label]:
    """Those labels that lie in the window and cover none that came before, at most :data:`MOST`."""
    scale = np.array([window.width / (window.x1 - window.x0), window.height / (window.y1 - window.y0)])
    taken: list[tuple[float, float, float]] = []
    kept = []
    for label in offered:
        x, y = (label.x - window.x0) * scale[0], (label.y - window.y0) * scale[1]
        half = len(label.text) * _LETTER / 2 + _MARGIN
        inside = half <= x <= window.width - half and _LINE <= y <= window.height - _LINE
        if inside and all(abs(y - v) >= _LINE or abs(x - u) >= half + w for u, v, w in taken):
            taken.append((x, y, half))
            kept.append(label)
        if len(kept) == MOST:
            break
    return kept


def _clusters(clouds: HeadClouds, cloud: HeadCloud, screen: np.ndarray) -> Iterable[Label]:
    """Clusters by falling size, each where the median of its points is, as its first telling tokens."""
    table = clouds.token_ids
    for cluster in cloud.clusters:
        words = [visible(table.get(int(token)), 14) for token, _ in cluster["tokens"][:_WORDS]]
        here = screen[cloud.labels == cluster["label"]]
        if words and len(here):
            x, y = np.median(here, axis=0)
            yield Label(float(x), float(y), " ".join(words))


def _tokens(clouds: HeadClouds, screen: np.ndarray, window: Window, emphasised: np.ndarray | None) -> Iterable[Label]:
    """Points in the window, evenly drawn, each as its text; a text is offered once."""
    inside = window.holds(screen)
    inside = np.flatnonzero(inside if emphasised is None else inside & emphasised)
    if len(inside) > CANDIDATES:
        inside = inside[np.linspace(0, len(inside) - 1, CANDIDATES).astype(np.int64)]
    seen: set[int] = set()
    n = len(clouds.tokens)
    # Steps of a golden share through the points, so that the first labels come from all over the window.
    order = np.argsort((np.arange(len(inside)) * 0.6180339887) % 1.0, kind="stable")
    for point in inside[order]:
        code = int(clouds.tokens.vocabulary.codes[point % n])
        if code >= 0 and code not in seen:
            seen.add(code)
            text = visible(clouds.tokens.text(int(point % n)), 18)
            yield Label(float(screen[point, 0]), float(screen[point, 1]), text)
