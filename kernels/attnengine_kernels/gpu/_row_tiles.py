"""Tile sizes of the row pass, and its launches for the ahead-of-time compiler."""

from __future__ import annotations

import torch

from attnengine_kernels.gpu._launch import MAX_FEATURES, Shipped, Tile, compute_type, padded_dim
from attnengine_kernels.gpu._rows_kernel import lse_kernel, row_kernel

#: Keys and edge keys per tile of half precision launches, by outputs and padded width; the first launch of a request
#: carries the statistics and features. 128 rows, 8 warps, 2 stages. What is not listed runs as more launches instead:
#: it spills, or (width 256 on sm_80) takes more shared memory than consumer cards have.
HALF_TILES: dict[tuple[int, str], dict[int, tuple[int, int]]] = {
    (90, "ak"): {16: (64, 16), 32: (64, 16), 64: (64, 16), 128: (32, 16), 256: (32, 16)},
    (80, "ak"): {16: (64, 16), 32: (64, 16), 64: (64, 16), 128: (64, 16)},
    (90, "ak+ak2"): {16: (64, 16), 32: (64, 16), 64: (32, 16), 128: (32, 16)},
    (80, "ak+ak2"): {16: (64, 16), 32: (64, 16), 64: (64, 32)},
}
WITH_AK = ("ak", "ak alone", "ak+ak2")


def row_tile(arch: int, d: int, dtype: torch.dtype, outputs: str) -> Tile | None:
    """Tile of one launch on ``arch`` (80 or 90), or None where it would spill.

    ``outputs`` is "lse", "ak" (with statistics and features), "ak2" (a launch of its own) or "ak+ak2" (all in one);
    where "ak" has none, "statistics" (with features) and "ak alone".
    """
    width = padded_dim(d)
    if outputs in ("statistics", "ak alone"):
        if row_tile(arch, d, dtype, "ak") is not None:
            return None
        return Tile(128, 64, 16, 8, 2) if outputs == "statistics" else Tile(64, 32, 16, 8, 2)
    if dtype == torch.float32:  # plain FMA: small tiles, and one accumulator a launch
        if outputs == "ak+ak2":
            return None
        if width == 256 and outputs == "ak2":
            return Tile(16, 16, 16, 8, 1)
        if width == 128 and outputs != "ak2":
            return Tile(16, 16, 16, 4, 2) if outputs == "ak" else Tile(32, 16, 16, 8, 1)
        return Tile(32, 32, 32, 8, 1)
    if outputs in ("lse", "ak2"):
        return Tile(64, 32, 16, 8, 2) if (arch, width, outputs) == (80, 256, "ak2") else Tile(128, 64, 64, 8, 2)
    sizes = HALF_TILES[arch, outputs].get(width)
    return None if sizes is None else Tile(128, *sizes, 8, 2)


def launches(arch: int, d: int, dtype: torch.dtype, want_ak: bool, want_ak2: bool) -> list[tuple[str, Tile]]:
    """The sweeps that a request takes, statistics and features first: one, or more where a tile would not fit."""
    if want_ak and want_ak2 and (tile := row_tile(arch, d, dtype, "ak+ak2")):
        return [("ak+ak2", tile)]
    names = ["ak"] if row_tile(arch, d, dtype, "ak") else ["statistics"] + (["ak alone"] if want_ak else [])
    names += ["ak2"] if want_ak2 else []
    return [(name, tile) for name in names if (tile := row_tile(arch, d, dtype, name))]


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module on a plain call, for the ahead-of-time compiler: with features, every output."""
    element = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in ("q", "k", "k2") for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "stat_stride", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "LO": "*i32", "HI": "*i32", "COUNT": "*i32", "SEEN": "*i8"}
    types |= dict.fromkeys(("Q", "K", "K2", "FEATURES"), f"*{element}")
    types |= dict.fromkeys(("LSE", "OUT", "SUM", "AK_OUT", "AK2_OUT", "MASS_OUT"), "*fp32")
    absent = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k"))
    shape = {"D": d, "DP": padded_dim(d), "COMPUTE": compute_type(dtype), "SOFTCAP": False, "HAS_BIAS": False}
    found: list[Shipped] = []
    for outputs in ("lse", "ak", "statistics", "ak alone", "ak2", "ak+ak2"):
        tile, first = row_tile(arch, d, dtype, outputs), outputs not in ("ak2", "ak alone")
        if tile is None:
            continue
        constants = shape | absent | {"M": tile.m, "N": tile.n, "EDGE": tile.edge}
        if outputs == "lse":
            found.append(("lse", lse_kernel, types, constants | {"SINK": None, "HAS_SINK": False}, tile))
            continue
        constants |= {
            "F": MAX_FEATURES if first else 0, "P_BITS": 15 if dtype == torch.float16 else 0, "STATS": first,
            "AK": outputs in WITH_AK, "AK2": "ak2" in outputs,
        }  # fmt: skip
        constants |= ({} if "ak2" in outputs else {"K2": None}) | ({} if first else {"FEATURES": None})
        found.append((f"row {outputs}", row_kernel, types, constants, tile))
    return found
