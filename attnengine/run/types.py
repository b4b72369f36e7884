"""Head types and intervals, the tables derived from a run's sums with settings of their own.

Types have sums of their own (:mod:`attnengine.statistics.type_sums`); every merge writes the tables, and those of a
finished run can be made again, under other settings, from the sums in its shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnengine import disk, store
from attnengine.errors import RunFormatError
from attnengine.opened import open_run
from attnengine.run import shards
from attnengine.run.choice import narrowed, renumbered
from attnengine.run.planned import Planned, planned
from attnengine.run.progress import Reporter
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.head_types import TypeSettings, types_table
from attnengine.statistics.intervals import LEVEL, intervals_table

PREFIX = "type_"  # of the grouped sums that the table is made from


def write_tables(
    plan: Planned, tables: str, sums: Sequence[SiteSums], stats: str, reporter: Reporter
) -> dict[str, Any]:
    """Write the derived tables into the folder of a merge; what the manifest says of them.

    Without sampled rows there are no head types, and it is said.
    """
    sites = narrowed(plan.sites, plan.chosen)
    sums = [sums[site.site] for site in sites]
    intervals = renumbered(intervals_table(sites, sums, stats), plan.chosen)
    made = store.write_derived(plan.run, tables, "intervals", intervals, {"level": LEVEL})
    if not any(f"{PREFIX}rows" in one.grouped for one in sums):
        reporter.say("no head types: they are estimated from the sample, and this run keeps none (--sample 0)")
        return made
    return made | _write_head_types(plan, tables, sums, TypeSettings())


def _write_head_types(plan: Planned, tables: str, sums: Sequence[SiteSums], settings: TypeSettings) -> dict[str, Any]:
    """``sums`` are those of the sites with chosen heads."""
    found = renumbered(types_table(narrowed(plan.sites, plan.chosen), sums, settings), plan.chosen)
    return store.write_derived(plan.run, tables, "head_types", found, asdict(settings))


def remake_head_types(run: Path, settings: TypeSettings) -> None:
    """Make ``head_types`` of a finished run again, under other settings, from the sums in its shards.

    Raises RunFormatError if the run is not finished, keeps no shards or was made without a sample.
    """
    opened, plan = open_run(run), planned(run)
    if opened.manifest["status"] != "complete":
        raise RunFormatError(f"{run} is not finished: its head types are made again with each merge")
    every = stored_sums(plan)
    sums = [every[site.site] for site in narrowed(plan.sites, plan.chosen)]
    if not any(one.grouped for one in sums):
        raise RunFormatError(f"{run} keeps no sums for head types: make it again, with --sample above 0")
    with disk.locked(run):
        made = _write_head_types(plan, "", sums, settings)
        derived = opened.manifest.get("derived", {}) | made
        store.write_manifest(run, opened.manifest | {"derived": derived})


def stored_sums(plan: Planned, prefix: str = PREFIX) -> list[SiteSums]:
    """The grouped sums whose names begin with ``prefix``, folded over the run's shards in order."""
    sums = [SiteSums(pilot) for pilot in plan.pilots]
    for shard in plan.done():
        tensors, _ = shards.read_tensors(shards.shard_path(plan.run, shard), plan.key)
        wanted = {name: value for name, value in tensors.items() if f".grouped.{prefix}" in name}
        n_groups = plan.manifest["corpus"]["groups"]
        found = shards.unpack_sums(wanted | {"groups": tensors["groups"]}, plan.pilots, n_groups)
        for mine, other in zip(sums, found, strict=True):
            mine.merge(other)
    return sums
