"""Shard files: what one piece of the plan added up to, written whole or not at all.

A file is safetensors with the plan's digest, the sites' digest and a SHA-256 of the tensors in its header. A partial
of another plan is refused, never merged.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from attnengine import store
from attnengine.errors import RunFormatError
from attnengine.statistics.accumulate import Pilot, SiteSums


@dataclass(frozen=True)
class About:
    """What a shard file says of itself beside its sums."""

    seconds: float = 0.0  # how long it took
    attempts: int = 1  # the one that worked included
    resplit: bool = False  # a batch did not fit into memory and ran in pieces: its last bits may differ


def shard_path(run: Path, shard: int) -> Path:
    """Where the partial sums of a shard lie."""
    return run / "shards" / f"shard-{shard:05d}.safetensors"


def key_of(plan: str, pilots: list[Pilot]) -> str:
    """What shards must have in common to be added up: the plan, and the centres of their second moments."""
    return hashlib.sha256(f"{plan} {_digest(pack_pilots(pilots), '')}".encode()).hexdigest()


def to_bytes(tensors: dict[str, Tensor], key: str, about: About) -> bytes:
    """A shard file: tensors under a key that says what they belong to."""
    told = json.dumps(asdict(about))
    header = {"plan": key, "about": told, "sha256": _digest(tensors, told)}
    return save({name: value.contiguous() for name, value in tensors.items()}, metadata=header)


def write_tensors(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    """Write tensors atomically under their key."""
    store.write_atomic(path, to_bytes(tensors, key, About()))


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], About]:
    """Read tensors back; RunFormatError if they are damaged or belong to another plan."""
    try:
        data = path.read_bytes()  # not mapped: what is checked must be what is used
        header = _header(data)
        tensors = load(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise RunFormatError(f"{path} is damaged ({error}); delete it and resume, and it is made again") from error
    if header.get("plan") != key:
        raise RunFormatError(f"{path} belongs to another plan; use --overwrite to start again")
    told = header.get("about", "")
    if header.get("sha256") != _digest(tensors, told):
        raise RunFormatError(f"{path} does not match its checksum; delete it and resume, and it is made again")
    try:
        return tensors, About(**json.loads(told))
    except (ValueError, TypeError) as error:
        raise RunFormatError(f"{path} does not say what it is ({error}); delete it and resume") from error


def _header(data: bytes) -> dict[str, str]:
    """The strings that a safetensors file carries beside its tensors."""
    size = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + size].decode("utf-8")).get("__metadata__", {})
    return {str(name): str(value) for name, value in found.items()}


def _digest(tensors: dict[str, Tensor], told: str) -> str:
    digest = hashlib.sha256(told.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def pack_sums(sums: list[SiteSums], groups: Tensor) -> dict[str, Tensor]:
    """Flat tensors of all sites; of grouped sums only the rows of ``groups`` (sorted), the others being zero."""
    out = {"groups": groups}
    for site, one in enumerate(sums):
        for name, value in one.tensors(str(site)):
            out[name] = value[groups] if ".grouped." in name else value
    return out


def unpack_sums(tensors: dict[str, Tensor], pilots: list[Pilot], n_groups: int) -> list[SiteSums]:
    """The inverse of :func:`pack_sums`."""
    sums = [SiteSums(pilot) for pilot in pilots]
    groups = tensors["groups"]
    for name, value in tensors.items():
        site, _, rest = name.partition(".")
        if not site.isdigit():
            continue
        kind, _, statistic = rest.partition(".")
        if kind == "grouped":
            full = torch.zeros((n_groups, *value.shape[1:]), dtype=value.dtype)
            full[groups] = value
            value = full
        if kind == "tokens":
            setattr(sums[int(site)].tokens, statistic, value)
        else:
            getattr(sums[int(site)], kind)[statistic] = value
    return sums


def pack_pilots(pilots: list[Pilot]) -> dict[str, Tensor]:
    """Flat tensors of every site's pilot."""
    return {
        f"{site}.{name}": getattr(pilot, name)
        for site, pilot in enumerate(pilots)
        for name in ("score", "qk", "distance")
    }


def unpack_pilots(tensors: dict[str, Tensor]) -> list[Pilot]:
    """The inverse of :func:`pack_pilots`."""
    found: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        site, _, field = name.partition(".")
        found[int(site)][field] = value
    return [Pilot(**found[site]) for site in sorted(found)]
