"""Where a layout starts: the principal axes of the points, which show the large shape from the first epoch on."""

from __future__ import annotations

import numpy as np

EXTENT = 10.0  # the side of the square, or cube, that the start fills, as in UMAP
JITTER = 1e-3  # so that no axis without spread stays without


def principal_axes(points: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, dims) fp64 on the largest principal axes of ``points`` (n, d) and each axis' share of variance.

    The sign of an axis is fixed by its largest loading, which is positive. Axes beyond d are zero.
    """
    centred = np.asarray(points, np.float64) - points.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = np.pad(axes[:, ::-1][:, :dims], ((0, 0), (0, max(dims - axes.shape[1], 0))))
    signs = np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)[0] < 0, -1.0, 1.0)
    spread = np.pad(variances[::-1], (0, dims))[:dims].clip(min=0)
    total = variances.clip(min=0).sum()
    return centred @ (axes * signs), spread / total if total > 0 else spread


def first_positions(points: np.ndarray, dims: int, seed: int) -> np.ndarray:
    """(n, dims) fp32: principal axes, each stretched to [0, EXTENT], with a little noise drawn by ``seed``."""
    found, _ = principal_axes(points, dims)
    low, high = found.min(axis=0), found.max(axis=0)
    unit = (found - low) / np.where(high > low, high - low, 1.0)
    noise = np.random.default_rng(seed).random(found.shape, dtype=np.float32) - np.float32(0.5)
    return (unit * EXTENT).astype(np.float32) + noise * np.float32(JITTER * EXTENT)
