"""What a run folder says of its plan: enough to watch and merge a run without its model and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attnengine import disk, store
from attnengine.errors import RunFormatError
from attnengine.records import Site
from attnengine.run import failures, provenance, shards
from attnengine.run.choice import Chosen
from attnengine.statistics.accumulate import Pilot


@dataclass(frozen=True)
class Planned:
    """What a run folder says of its plan: all that a merge needs beside the shards."""

    run: Path
    manifest: dict[str, Any]  # as the run began
    sites: list[Site]
    shards: pd.DataFrame  # one row per shard, as planned
    tokens: pd.DataFrame  # the whole sample
    vocabulary: pd.DataFrame  # how each token id is written
    pilots: list[Pilot]

    @property
    def digest(self) -> str:
        """The plan's."""
        return str(self.manifest["plan"])

    @property
    def key(self) -> str:
        """What this run's shards are written under."""
        return shards.key_of(self.digest, self.pilots)

    @property
    def chosen(self) -> Chosen:
        """The heads of each site that the run looks at."""
        told = self.manifest["chosen_heads"]
        fits = isinstance(told, list) and len(told) == len(self.sites) and any(told)
        for heads, site in zip(told if fits else (), self.sites, strict=False):
            numbers = isinstance(heads, list) and all(type(head) is int for head in heads)
            fits = fits and numbers and heads == sorted(set(heads) & set(range(site.n_heads)))
        if not fits:
            raise RunFormatError(
                f"{self.run}/shards/plan.json: chosen_heads does not fit the sites; make the run again"
            )
        return tuple(tuple(heads) for heads in told)

    def done(self) -> list[int]:
        """Shards whose sums are on disk, in order."""
        return [shard for shard in range(len(self.shards)) if shards.shard_path(self.run, shard).exists()]

    def failed(self) -> dict[int, list[dict[str, Any]]]:
        """Shards that have failed attempts and no sums."""
        told = {shard: failures.attempts(self.run, shard, self.digest) for shard in self._missing()}
        return {shard: attempts for shard, attempts in told.items() if attempts}

    def given_up(self) -> list[int]:
        """Shards that nobody will try again."""
        return [shard for shard, attempts in self.failed().items() if len(attempts) >= failures.ATTEMPTS]

    def settled(self) -> bool:
        """Whether nothing is left to work on."""
        return len(self.done()) + len(self.given_up()) == len(self.shards)

    def _missing(self) -> list[int]:
        return sorted(set(range(len(self.shards))) - set(self.done()))


def planned(run: Path) -> Planned:
    """Read a run's plan from its folder; RunFormatError names what is missing or damaged."""
    manifest = store.read_manifest(run, run / "shards" / "plan.json")
    needed = ("plan", "corpus", "settings", "model", "planned", "chosen_heads")
    missing = [name for name in needed if name not in manifest]
    if missing:
        raise RunFormatError(f"{run}/shards/plan.json lacks {', '.join(missing)}; make the run again")
    for entry in manifest["planned"]:
        path = disk.inside(run, str(entry["path"]))
        if not path.is_file() or disk.sha256_file(path) != entry["sha256"]:
            what = "differs from its checksum" if path.is_file() else "is missing"
            raise RunFormatError(f"{path} {what}; delete it and resume the run, and it is made again")
    packed, _ = shards.read_tensors(run / "shards" / "pilot.safetensors", str(manifest["plan"]))
    return Planned(
        run,
        manifest,
        provenance.sites_of(store.read_table(run, "sites")),
        store.read_table(run / "shards", "plan"),
        store.read_table(run / "shards", "tokens"),
        store.read_table(run / "shards", "vocabulary"),
        shards.unpack_pilots(packed),
    )
