"""exp and tanh in fp32 that LLVM vectorises: numba's own call the scalar C library once per element.

Polynomials and reduction constants are those of Cephes (Moshier, netlib.org/cephes, expf and tanhf): relative error
below 1e-7 where the result is normal. Compiled without reassociation, which would merge the two halves of ln 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

f32 = np.float32
LOWEST, HIGHEST = f32(-87.0), f32(88.0)  # below, exp is 0 here; above, it is exp(88)
LOG2E, LN2_HIGH, LN2_LOW = f32(1.44269504088896341), f32(0.693359375), f32(-2.12194440e-4)
E0, E1, E2 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
E3, E4, E5 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)
T0, T1, T2 = f32(-5.70498872745e-3), f32(2.06390887954e-2), f32(-5.37397155531e-2)
T3, T4, SMALL = f32(1.33314422036e-1), f32(-3.33332819422e-1), f32(0.625)
ZERO, HALF, ONE, TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)


@intrinsic
def _power_of_two(_context: Any, _n: Any) -> Any:
    """2^n for a float32 that holds an integer in [-126, 127]: the exponent bits, written directly."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        exponent = builder.add(builder.fptosi(args[0], i32), ir.Constant(i32, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(i32, 23)), ir.FloatType())

    return types.float32(types.float32), generate


def _fold(name: str) -> Any:
    """Min or max of two float32 as an LLVM intrinsic that may be vectorised as a reduction; NaN gives either value."""

    @intrinsic
    def fold(_context: Any, _x: Any, _y: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            f = ir.FloatType()
            function = builder.module.declare_intrinsic(f"llvm.{name}", (f,), ir.FunctionType(f, (f, f)))
            return builder.call(function, args, fastmath=("nnan", "nsz"))

        return types.float32(types.float32, types.float32), generate

    return fold


least, most = _fold("minnum"), _fold("maxnum")


@njit(cache=True, nogil=True, fastmath={"contract"})
def fast_exp(x):
    """exp(x), float32; 0 for x <= -87 and for NaN (callers notice NaN by their sums of x)."""
    y = x if x > LOWEST else LOWEST
    y = y if y < HIGHEST else HIGHEST
    n = f32(math.floor(y * LOG2E + HALF))
    r = y - n * LN2_HIGH
    r = r - n * LN2_LOW
    e = (((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5) * (r * r) + r + ONE
    e = e * _power_of_two(n)
    return e if x > LOWEST else ZERO


@njit(cache=True, nogil=True, fastmath={"contract"})
def fast_tanh(x):
    """tanh(x), float32; NaN stays NaN."""
    z = x * x
    small = ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x
    a = abs(x)
    large = ONE - TWO / (fast_exp(a + a) + ONE)
    large = large if x > ZERO else -large
    return large if a > SMALL else small
