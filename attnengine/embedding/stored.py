"""The embedding of a run on disk, and how it is read back. Light: neither numba nor torch.

    RUN/embedding/settings.json            format, settings, their hash, the hash of the run they were applied to
    RUN/embedding/site-000/head-00.safetensors    one head: ``points`` (2n, dims) fp32, queries then keys, row i and
                                           n + i being row i of ``tokens``; ``labels`` (2n,) int16; ``query_map,
                                           key_map`` (d, d), ``key_shift`` (d,) fp64; its row of ``clouds`` and its
                                           clusters as JSON in the header. A head that has no cloud: the reason alone
    RUN/clouds.parquet                     (site, head): gauge, faithfulness, quality, or the problem; leaves_out_bias:
                                           the model adds a score bias (T5, ALiBi), which no vector holds, so that the
                                           figures judge q·k without it
    RUN/cluster_tokens.parquet             (site, head, cluster, rank): size, share of queries, token, log-odds

Every head is written whole or not at all, under the hash of its settings: that is what makes an embedding resume.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from attnengine import disk, store
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import EmbeddingError, RunFormatError

if TYPE_CHECKING:
    from attnengine.embedding.head import Picture
    from attnengine.opened import Run

FOLDER = "embedding"
HEADER = "attnengine"
TABLES = ("clouds", "cluster_tokens")
FORMAT = {"format": "attnengine-embedding", "format_version": 1}
ARRAYS = {"points": "f4", "labels": "i2", "query_map": "f8", "key_map": "f8", "key_shift": "f8"}


@dataclass(frozen=True)
class Stored:
    """A head as it lies on disk: its arrays by name, its row of ``clouds`` and its clusters, or its ``problem``."""

    arrays: dict[str, np.ndarray]
    figures: dict[str, Any]
    clusters: list[dict[str, Any]]
    problem: str | None


def head_path(run: Path, site: int, head: int) -> Path:
    """Where a head's cloud lies."""
    return run / FOLDER / f"site-{site:03d}" / f"head-{head:02d}.safetensors"


def write_head(path: Path, digest: str, picture: Picture | str) -> None:
    """Write a head's picture, or the reason why it has none, atomically."""
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {"figures": {}, "clusters": [], "problem": picture}
    if not isinstance(picture, str):
        gauge = picture.gauge
        found = (picture.points, picture.labels, gauge.query_map, gauge.key_map, gauge.key_shift)
        arrays = {name: np.ascontiguousarray(array) for name, array in zip(ARRAYS, found, strict=True)}
        clusters = [vars(cluster) for cluster in picture.clusters]
        about = {"figures": picture.figures, "clusters": clusters, "problem": None}
    header = {"settings": digest, "sha256": _digest(arrays), "about": disk.json_safe(about)}
    # One entry: safetensors writes several in no fixed order, and equal heads shall be equal files.
    disk.write_atomic(path, save(arrays, metadata={HEADER: json.dumps(header)}))


def read_head(path: Path, digest: str) -> Stored:
    """Read a head's file; RunFormatError if it is damaged or of other settings."""
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no __iter__)
        settings, sha256, about = header["settings"], header["sha256"], header["about"]
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise RunFormatError(f"{path} is damaged ({error}); `attnengine embed` makes it again") from error
    if settings != digest:
        raise RunFormatError(f"{path} was made with other settings; `attnengine embed … --overwrite` makes it again")
    if sha256 != _digest(arrays) or not _is_whole(arrays, about):
        raise RunFormatError(f"{path} does not hold a head's cloud; `attnengine embed` makes it again")
    return Stored(arrays, about["figures"], about["clusters"], about["problem"])


def _is_whole(arrays: dict[str, np.ndarray], about: Any) -> bool:
    """Whether the parts fit each other: any file may come from a stranger."""
    fields = {"figures": dict, "clusters": list, "problem": str | None}
    if not isinstance(about, dict) or any(not isinstance(about.get(name), kind) for name, kind in fields.items()):
        return False
    if about["problem"] is not None:
        return not arrays
    if {name: array.dtype for name, array in arrays.items()} != {n: np.dtype(t) for n, t in ARRAYS.items()}:
        return False
    points, shift = arrays["points"], arrays["key_shift"]
    square = shift.shape * 2
    return (
        points.ndim == 2
        and points.shape[1] in (2, 3)
        and shift.ndim == 1
        and arrays["labels"].shape == points.shape[:1]
        and arrays["query_map"].shape == arrays["key_map"].shape == square
        and all(np.isfinite(array).all() for array in arrays.values())
    )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def read_settings(run: Path) -> tuple[EmbedSettings, str]:
    """Settings of a run's embedding and their hash; EmbeddingError if there is none, RunFormatError if damaged."""
    path = run / FOLDER / "settings.json"
    try:
        found = disk.read_json(path)
        settings, digest = EmbedSettings(**found["settings"]), found["hash"]
    except FileNotFoundError:
        raise EmbeddingError(f"{run} has no embedding yet; make it with `attnengine embed {run}`") from None
    except (RunFormatError, ValueError, TypeError, KeyError) as error:
        raise RunFormatError(f"{path} is damaged ({error}); `attnengine embed … --overwrite` makes it again") from error
    if {name: found.get(name) for name in FORMAT} != FORMAT:
        raise RunFormatError(f"{path} is of another format; `attnengine embed … --overwrite` makes it again")
    return settings, str(digest)


def open_folder(run: Path, settings: EmbedSettings, run_hash: str, *, overwrite: bool) -> str:
    """Make or reopen the folder of an embedding and return its hash.

    Raises EmbeddingError if it holds one of other settings and ``overwrite`` is not set.
    """
    digest = settings.digest(run_hash)
    if overwrite:
        forget(run)
    if (run / FOLDER).exists():
        there, found = read_settings(run)
        if found != digest:
            differs = [name for name, value in settings.as_dict().items() if value != getattr(there, name)]
            what = ", ".join(f"{name} {getattr(there, name)}" for name in differs) or "another run or release"
            raise EmbeddingError(f"{run} already has an embedding made with {what}; --overwrite replaces it")
        return digest
    about = {**FORMAT, "settings": settings.as_dict(), "hash": digest, "run_hash": run_hash}
    disk.write_json(run / FOLDER / "settings.json", about)
    return digest


def forget(run: Path) -> None:
    """Delete a run's embedding; what speaks of it goes first."""
    with disk.locked(run):
        manifest = store.read_manifest(run)
        kept = {name: entry for name, entry in manifest.get("derived", {}).items() if name not in TABLES}
        store.write_manifest(run, manifest | {"derived": kept})
    for name in TABLES:
        (run / f"{name}.parquet").unlink(missing_ok=True)
    if (run / FOLDER).is_symlink():
        raise RunFormatError(f"{run / FOLDER} is a link; delete it by hand")
    if (run / FOLDER).exists():
        shutil.rmtree(run / FOLDER)


def write_tables(run: Run, settings: EmbedSettings, digest: str, heads: list[dict[str, Any]]) -> pd.DataFrame:
    """Write ``clouds`` (returned) and ``cluster_tokens`` from the heads' files; ``heads`` are the rows' keys."""
    names = run.tokens.drop_duplicates("token_id").set_index("token_id")["text"]
    biased = dict(zip(run.sites["site"], run.sites["has_bias"].astype(bool), strict=True))
    rows, tokens = [], []
    for keys in heads:
        found = read_head(head_path(run.path, keys["site"], keys["head"]), digest)
        about_bias = {"leaves_out_bias": biased[keys["site"]]}
        rows.append({**keys, "problem": found.problem, **about_bias, **found.figures})
        where = {"site": keys["site"], "head": keys["head"]}
        for cluster in found.clusters:
            about = where | {
                "cluster": cluster["label"],
                "size": cluster["size"],
                "query_share": cluster["query_share"],
            }
            tokens += [
                about | {"rank": rank, "token_id": token, "text": names.get(token), "log_odds_z": z}
                for rank, (token, z) in enumerate(cluster["tokens"])
            ]
    columns = ["site", "head", "cluster", "size", "query_share", "rank", "token_id", "text", "log_odds_z"]
    clouds = _typed(pd.DataFrame(rows))
    frames = {"clouds": clouds, "cluster_tokens": pd.DataFrame(tokens, columns=columns)}
    with disk.locked(run.path):
        derived = store.read_manifest(run.path).get("derived", {})
        for name, frame in frames.items():
            derived |= store.write_derived(run.path, "", name, frame, settings.as_dict())
        store.write_manifest(run.path, store.read_manifest(run.path) | {"derived": derived})
    return clouds


def _typed(clouds: pd.DataFrame) -> pd.DataFrame:
    """One dtype a column whatever is missing: a head without a cloud counts nothing, is grey, and measures NaN."""
    for name in clouds.columns.difference(["site", "head", "layer", "kind", "stack", "problem", "gauge"]):
        if name.startswith("n_") or name.endswith("_n"):
            clouds[name] = clouds[name].fillna(0).astype(np.int64)
        elif name in ("grey", "joins_sides", "gauge_exact", "leaves_out_bias"):
            clouds[name] = clouds[name].astype(object).where(clouds[name].notna(), name == "grey").astype(bool)
        else:
            clouds[name] = clouds[name].astype(np.float64)
    return clouds
