"""The force law of a layout: how strongly neighbours attract and strangers repel at a distance on the screen.

UMAP (McInnes et al. 2018, arXiv 1802.03426) gives two points at distance x the membership 1 / (1 + a x^{2b}), with a
and b fitted so that it follows exp(−(x − min_dist)/spread) beyond ``min_dist``. The gradients need one power d2^b per
pair, and the C library's is slow and differs between machines: here it is two short polynomials in fp32 made of
operations that IEEE 754 rounds the same everywhere, so that NumPy, Numba and a GPU can agree to the bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np

f32 = np.float32
#: log2(1 + t)/t on [√½ − 1, √2 − 1] and 2^r on [−½, ½]: Chebyshev fits, lowest power first; d2^b is right to 1e-5.
LOG2 = tuple(
    map(
        f32,
        (
            1.4426949579955628,
            -0.7213527587652903,
            0.48092403857726107,
            -0.36024198590651046,
            0.28707561116336217,
            -0.24882180564288017,
            0.23420985113312728,
            -0.14620353413492693,
        ),
    )
)
EXP2 = tuple(
    map(
        f32,
        (
            1.0000000754953493,
            0.6931472067106206,
            0.24022107355830383,
            0.055503272142086946,
            0.00967603709787357,
            0.0013400432165524283,
        ),
    )
)
SQRT_HALF_BITS = np.int32(0x3F3504F3)  # the mantissa is taken from [√½, √2)
TINY = f32(1e-30)  # squared distances below count as this: the force is 0 there because the difference is


def power(x: np.ndarray, exponent: np.float32) -> np.ndarray:
    """x^exponent in fp32, for x in [1e-30, 1e30] (n,) fp32 and 0 < exponent ≤ 1; relative error below 1e-5."""
    bits = x.view(np.int32)
    whole = (bits - SQRT_HALF_BITS) >> np.int32(23)
    t = (bits - (whole << np.int32(23))).view(f32) - f32(1)
    exponents = (whole.astype(f32) + _horner(LOG2, t) * t) * exponent
    nearest = np.rint(exponents)
    scale = ((nearest.astype(np.int32) + np.int32(127)) << np.int32(23)).view(f32)
    return _horner(EXP2, exponents - nearest) * scale


def _horner(coefficients: tuple[np.float32, ...], x: np.ndarray) -> np.ndarray:
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


@cache
def fit_curve(min_dist: float = 0.1, spread: float = 1.0) -> tuple[float, float]:
    """The a and b of 1 / (1 + a x^{2b}), least squares on 300 points of [0, 3·spread], as UMAP fits them.

    Raises ValueError unless 0 ≤ min_dist < 3·spread.
    """
    from scipy.optimize import curve_fit

    if not 0 <= min_dist < 3 * spread:
        raise ValueError(f"min_dist must be at least 0 and below 3·spread = {3 * spread:g}, got {min_dist:g}")
    x = np.linspace(0, 3 * spread, 300)
    wanted = np.where(x < min_dist, 1.0, np.exp(-(x - min_dist) / spread))
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, wanted)
    return float(a), float(b)
