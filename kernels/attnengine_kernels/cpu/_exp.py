"""2^x and tanh in fp32 that LLVM vectorises: numba's own call the scalar C library once per element.

Polynomials are those of Cephes (Moshier, netlib.org/cephes, exp2f and tanhf): relative error about 1e-7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

f32 = np.float32
f64 = np.float64  # float() of a float32 is a float32 to numba
LOWEST, HIGHEST = f32(-126.0), f32(127.0)  # exponents are clamped to normal numbers: 1e-38 stands for 0
LOG2E = f32(1.44269504088896341)
E0, E1, E2 = f32(1.535336188319500e-4), f32(1.339887440266574e-3), f32(9.618437357674640e-3)
E3, E4, E5 = f32(5.550332471162809e-2), f32(2.402264791363012e-1), f32(6.931472028550421e-1)
T0, T1, T2 = f32(-5.70498872745e-3), f32(2.06390887954e-2), f32(-5.37397155531e-2)
T3, T4, SMALL = f32(1.33314422036e-1), f32(-3.33332819422e-1), f32(0.625)
ZERO, ONE, TWO = f32(0.0), f32(1.0), f32(2.0)


@intrinsic
def _power_of_two(_context: Any, _n: Any) -> Any:
    """2^n for a float32 that holds an integer in [-126, 127]: the exponent bits, written directly."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        exponent = builder.add(builder.fptosi(args[0], i32), ir.Constant(i32, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(i32, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def _nearest(_context: Any, _x: Any) -> Any:
    """The nearest integer, as a float32."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        f = ir.FloatType()
        return builder.call(builder.module.declare_intrinsic("llvm.nearbyint", (f,)), args)

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


@njit(cache=True, nogil=True, _nrt=False, fastmath={"contract"})
def fast_exp2(x):
    """2^x, float32, for x clamped to [-126, 127]; NaN counts as -126 (callers notice NaN by their sums of x)."""
    x = x if x > LOWEST else LOWEST
    x = x if x < HIGHEST else HIGHEST
    n = _nearest(x)
    r = x - n
    return (((((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5) * r) + ONE) * _power_of_two(n)


@njit(cache=True, nogil=True, _nrt=False, fastmath={"contract"})
def fast_tanh(x):
    """tanh(x), float32; NaN stays NaN."""
    z = x * x
    small = ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x
    a = abs(x)
    large = ONE - TWO / (fast_exp2(LOG2E * (a + a)) + ONE)
    large = large if x > ZERO else -large
    return large if a > SMALL else small
