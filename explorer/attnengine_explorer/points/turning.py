"""A cloud of two or three dimensions as it is seen: turned by yaw and pitch, then seen from the front."""

from __future__ import annotations

import numpy as np


def seen(points: np.ndarray, dims: int, yaw: int, pitch: int) -> np.ndarray:
    """(m, 2) fp32 of points (m, 2 or 3): the first two coordinates, or for ``dims`` 3 all three turned.

    yaw turns around the upright axis, then pitch around the horizontal one, in degrees, about the points' middle;
    there is no perspective. ValueError if there are fewer coordinates than ``dims``.
    """
    if points.shape[1] < dims:
        raise ValueError(f"expected {dims} coordinates, the picture has {points.shape[1]}")
    if dims == 2:
        return np.ascontiguousarray(points[:, :2], np.float32)
    a, b = np.radians(yaw), np.radians(pitch)
    matrix = np.array([[np.cos(a), 0, np.sin(a)], [np.sin(a) * np.sin(b), np.cos(b), -np.cos(a) * np.sin(b)]])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.ascontiguousarray((points - middle) @ matrix.T.astype(np.float32), np.float32)
