"""Tile sizes of the column pass, and its launches for the ahead-of-time compiler."""

from __future__ import annotations

import torch

from attnengine_kernels.gpu._columns_kernel import column_kernel
from attnengine_kernels.gpu._launch import Shipped, Tile, compute_type, padded_dim

GRID_FEATURES = 32  # row features of the pattern on relative positions, what the engine asks for


def column_tile(arch: int, d: int, dtype: torch.dtype, outputs: str) -> Tile | None:
    """Tile of one launch on ``arch`` (80 or 90): ``n`` keys stay, ``m`` rows pass by; None where it would spill.

    ``outputs`` is "received", "received+masses", "received+aq" or "received+aq+masses".
    """
    width, has_aq = padded_dim(d), "aq" in outputs
    if dtype == torch.float32:  # plain FMA: small tiles
        if has_aq and width == 256:
            return Tile(16, 16, 16, 8, 1)
        return Tile(32, 32, 32, 4 if has_aq and width <= 32 else 8, 1)
    if outputs == "received+aq+masses" and width >= {80: 128, 90: 256}[arch]:
        return None
    if (arch, width, has_aq) == (80, 256, True):
        return Tile(32, 64, 32, 8, 2)
    if arch == 80 and width == 256 and "masses" in outputs:
        return Tile(64, 64, 64, 8, 2)  # 128 keys take 101 KB
    if arch == 90 and "masses" in outputs and "received" in outputs and (has_aq or width == 256):
        return Tile(64, 128, 32, 8, 2)  # sm_100, which takes these tiles too, spills with 64 edge rows
    return Tile(64, 128, 64, 8, 2)


def launches(arch: int, d: int, dtype: torch.dtype, want_aq: bool, features: int) -> list[tuple[str, Tile]]:
    """The sweeps that a request takes: one, or two where both accumulators would not fit the registers."""
    masses = "+masses" if features else ""
    wanted = [f"received+aq{masses}"] if want_aq else [f"received{masses}"]
    if want_aq and features and column_tile(arch, d, dtype, wanted[0]) is None:
        wanted = ["received+aq", "masses"]
    return [(name, tile) for name in wanted if (tile := column_tile(arch, d, dtype, name))]


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of the pass on a plain call, for the ahead-of-time compiler."""
    element = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "n_tiles", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "SEES": "*i8", "SEEN": "*i8"}
    types |= dict.fromkeys(("LO", "HI", "SPANS"), "*i32") | dict.fromkeys(("Q", "K", "FEATURES"), f"*{element}")
    types |= dict.fromkeys(("LSE", "RECEIVED", "AQ_OUT", "MASS_OUT"), "*fp32")
    shape = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k")) | {"SOFTCAP": False, "HAS_BIAS": False}
    shape |= {"D": d, "DP": padded_dim(d), "COMPUTE": compute_type(dtype)}
    shape |= {"P_BITS": 15 if dtype == torch.float16 else 0}
    found: list[Shipped] = []
    for outputs in ("received", "received+masses", "received+aq", "received+aq+masses", "masses"):
        tile = column_tile(arch, d, dtype, outputs)
        if tile is None:
            continue
        parts = outputs.split("+")
        constants = shape | {"M": tile.m, "N": tile.n, "EDGE": tile.edge, "RECEIVES": "received" in parts}
        constants |= {"AQ": "aq" in parts, "F": GRID_FEATURES if "masses" in parts else 0}
        constants |= {} if "masses" in parts else {"FEATURES": None, "MASS_OUT": None}
        constants |= ({} if "aq" in parts else {"AQ_OUT": None}) | ({} if "received" in parts else {"RECEIVED": None})
        found.append((f"column {outputs}", column_kernel, types, constants, tile))
    return found
