"""The loop over one shard: batches through the model → kernel sums and sampled rows.

The model computes its own output with its own attention; every attention call passes through our function, which
hands q, k and v to the kernels while they are alive. Nothing of size L×L outlives a tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import torch

from attnengine.corpus.feed import Feed, Streams, WindowBatch
from attnengine.corpus.plan import Plan
from attnengine.errors import CaptureError, UnsupportedModelError
from attnengine.model.capture import Capture
from attnengine.model.load import LoadedModel
from attnengine.model.masks import DenseMaskError
from attnengine.records import Site, head_name
from attnengine.run import sampling, shards
from attnengine.run.choice import Chosen, restricted
from attnengine.run.prefetch import batches
from attnengine.run.sampling import Sample
from attnengine.run.threads import using_threads
from attnengine.statistics.accumulate import PILOT_SUMS, Pilot, SiteSums
from attnengine.statistics.key_tokens import TokenRows
from attnengine.statistics.row_pass import read_rows
from attnengine.statistics.row_values import own_sums
from attnengine_kernels import AttentionCall, Memory, head_sums

T = TypeVar("T")

MASS_DEFECT_GATE = 1e-3  # above it, statistics and model used different masks (KERNELS.md section 4)


@dataclass(frozen=True)
class Job:
    """Everything a run needs once it is planned."""

    loaded: LoadedModel
    sites: list[Site]
    feed: Feed
    plan: Plan
    device: str
    chosen: Chosen
    stats: str = "all"

    @property
    def max_length(self) -> int:
        """Tokens of the longest window: fixes the offset bins for the whole run."""
        return int(self.feed.n_tokens.max())


def streams_of(site: Site, streams: Mapping[str, T]) -> tuple[T, T]:
    """What is told of a site's queries and keys: cross-attention asks from the decoder into the encoder."""
    if site.kind == "cross":
        return streams["decoder"], streams["encoder"]
    stack = site.stack if site.stack in streams else next(iter(streams))
    return streams[stack], streams[stack]


def site_sums(job: Job, site: Site, call: AttentionCall, batch: WindowBatch, memory: Memory) -> dict[str, torch.Tensor]:
    """Kernel sums of one attention call; UnsupportedModelError if it does not run over the window's tokens.

    ``memory`` keeps what depends on tokens and mask only, so that the layers of a forward share it.
    """
    queries, keys = streams_of(site, batch.streams)
    seen = (call.query.shape[0], call.query.shape[2], call.key.shape[2])
    expected = (*queries.real.shape, keys.real.shape[1])
    if seen != expected:
        raise UnsupportedModelError(
            f"{site.name} ({site.module}) attends over (windows, queries, keys) = {seen}, the batch has {expected}; "
            "this model reshapes the sequence before attention, which attnengine cannot place in the text"
        )
    call, cross = restricted(call, job.chosen[site.site]), site.kind == "cross"
    return head_sums(call, queries, keys, cross=cross, max_length=job.max_length, stats=job.stats, memory=memory)


def make_pilots(job: Job) -> list[Pilot]:
    """The centres of second moments: the means of up to four windows spread over the corpus; zeros for a core run."""
    if job.stats == "core":  # it has no second moments
        return [Pilot.zero(len(heads), site.d_qk) for site, heads in zip(job.sites, job.chosen, strict=True)]
    n = len(job.feed.n_tokens)
    found: dict[int, list[dict[str, torch.Tensor]]] = defaultdict(list)
    with Capture(job.loaded.model, job.sites) as capture:
        for window in sorted({n * i // 4 for i in range(4)}):  # one by one: what fits must not depend on the plan
            _sums_of(job, capture, window, found)
    return [_pilot(found[site.site]) if found[site.site] else Pilot.zero(0, site.d_qk) for site in job.sites]


def _pilot(windows: list[dict[str, torch.Tensor]]) -> Pilot:
    return Pilot.of({name: torch.cat([one[name] for one in windows]) for name in windows[0]})


def _sums_of(job: Job, capture: Capture, window: int, found: dict[int, list[dict[str, torch.Tensor]]]) -> None:
    batch, memory = job.feed.batch([window], job.device), Memory()

    def on_call(site: Site, call: AttentionCall) -> None:
        if not job.chosen[site.site]:
            return
        sums = site_sums(job, site, call, batch, memory)
        check_mass(site, job.chosen[site.site], sums["mass_defect_max"].amax(0))
        found[site.site].append({name: value.cpu() for name, value in sums.items() if name in PILOT_SUMS})

    capture.forward(batch.inputs, on_call)


def run_shard(
    job: Job, shard: int, pilots: list[Pilot], advance: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, torch.Tensor], bool]:
    """All batches of a shard through the model: packed sums and samples, and whether batches had to be cut.

    If memory runs out, the shard begins again with its largest batches cut in half. ``advance`` is told the tokens
    of each batch, and takes them back then. Raises what a window alone raises.
    """
    limit = None
    while True:
        done: list[int] = []
        try:
            return _pass(job, shard, pilots, limit, done.append, advance), limit is not None
        except (torch.OutOfMemoryError, DenseMaskError):
            smaller = _half(job, shard, limit)
            if smaller is None:
                raise
        advance(-sum(done))
        limit = smaller
        if torch.device(job.device).type == "cuda":
            torch.cuda.empty_cache()  # out here, where the error no longer holds the forward's tensors


def _pass(
    job: Job,
    shard: int,
    pilots: list[Pilot],
    limit: int | None,
    note: Callable[[int], None],
    advance: Callable[[int], None],
) -> dict[str, torch.Tensor]:
    """One pass over a shard, in batches of at most ``limit`` padded tokens."""
    plan, sums, sample = job.plan, [SiteSums(pilot) for pilot in pilots], Sample()
    group_of = torch.from_numpy(plan.group).long()
    cut = [piece for index in plan.shards[shard] for piece in _cut(job, plan.batches[index], limit)]
    with Capture(job.loaded.model, job.sites) as capture, closing(batches(job.feed, cut, job.device)) as ready:
        for windows, batch in ready:
            run_batch(job, capture, windows, group_of[list(windows)], sums, sample, batch)
            tokens = int(job.feed.n_tokens[list(windows)].sum())
            note(tokens)
            advance(tokens)
    sums = [one.on_host() for one in sums]  # up to here nothing of a shard has left the device
    for site, heads, one in zip(job.sites, job.chosen, sums, strict=True):
        if heads:
            check_mass(site, heads, one.extremes["mass_defect_max"])
    seen = [window for windows in cut for window in windows]
    return shards.pack_sums(sums, torch.unique(group_of[seen])) | sample.tensors()


def _padded(job: Job, windows: tuple[int, ...]) -> int:
    return len(windows) * int(job.feed.n_tokens[list(windows)].max())


def _cut(job: Job, windows: tuple[int, ...], limit: int | None) -> list[tuple[int, ...]]:
    """A batch in halves of halves, until each has at most ``limit`` padded tokens or is one window."""
    if limit is None or len(windows) == 1 or _padded(job, windows) <= limit:
        return [windows]
    middle = (len(windows) + 1) // 2
    return _cut(job, windows[:middle], limit) + _cut(job, windows[middle:], limit)


def _half(job: Job, shard: int, limit: int | None) -> int | None:
    """Half of the largest batch of a shard, as the next limit; None if its batches are single windows already."""
    pieces = [piece for index in job.plan.shards[shard] for piece in _cut(job, job.plan.batches[index], limit)]
    sizes = [_padded(job, piece) for piece in pieces if len(piece) > 1]
    return max(sizes) // 2 if sizes else None


def run_batch(
    job: Job,
    capture: Capture,
    windows: tuple[int, ...],
    group: torch.Tensor,
    sums: list[SiteSums],
    sample: Sample,
    batch: WindowBatch | None = None,
) -> None:
    """One batch through the model, its attention calls into ``sums`` and ``sample``; ``batch``: made ahead."""
    batch = batch or job.feed.batch(windows, job.device)
    rows, where, n_plain = sampling.batch_sample(job.plan, windows)
    memory, n_groups = Memory(), job.plan.n_groups
    beside = _Beside(batch, group)

    def on_call(site: Site, call: AttentionCall) -> None:
        if not job.chosen[site.site]:
            return
        found = site_sums(job, site, call, batch, memory)
        here = beside.on(call.query.device)
        sums[site.site].add(found, here.group, n_groups)
        sums[site.site].tokens.add(found, streams_of(site, here.tokens)[1])
        if len(rows):
            # Hundreds of small operations: on several threads each waits for all, ten times as long on a busy machine.
            with using_threads(1):
                for some, plain in ((where[:n_plain], True), (where[n_plain:], False)):
                    if len(some):
                        of_rows(site, call, some, plain)

    def of_rows(site: Site, call: AttentionCall, where: torch.Tensor, plain: bool) -> None:
        heads, device = job.chosen[site.site], call.query.device
        facts, here = (streams_of(site, one) for one in (batch.streams, beside.on(device).facts))
        found = read_rows(call, heads, facts, here, where, cross=site.kind == "cross", max_length=job.max_length)
        sample.take(site.site, call, where, found if plain else found.without_values())
        if not plain:
            return
        sums[site.site].add(own_sums(found.values), group[where[:, 0]].to(device), n_groups)
        sums[site.site].add(found.types, group[found.windows].to(device), n_groups)

    capture.forward(batch.inputs, on_call)
    if len(rows):
        sample.rows.append(rows)


@dataclass(frozen=True)
class _Here:
    """What adding up a batch needs on the device of an attention call."""

    group: torch.Tensor  # (b,) int64
    facts: Streams
    tokens: dict[str, TokenRows | None]


class _Beside:
    """:class:`_Here` for every device that a model's layers lie on, made when the first of them is met."""

    def __init__(self, batch: WindowBatch, group: torch.Tensor) -> None:
        self.batch, self.group, self._known = batch, group, dict[torch.device, _Here]()

    def on(self, device: torch.device) -> _Here:
        """What a call on ``device`` needs."""
        if device not in self._known:
            facts = self.batch.here_on(device)
            tokens = {name: TokenRows.of(stream, device) for name, stream in self.batch.streams.items()}
            self._known[device] = _Here(self.group.to(device), facts, tokens)
        return self._known[device]


def check_mass(site: Site, heads: Sequence[int], defect: torch.Tensor) -> None:
    """CaptureError if a pattern does not sum to 1: the statistics and the model used different masks.

    ``defect`` (h,) is the worst row of each head; asked of the pilots' windows, before a run begins, and of each shard.
    """
    worst = defect.nan_to_num(0.0)  # NaN heads are reported as such, at the end
    if float(worst.max()) > MASS_DEFECT_GATE:
        head = heads[int(worst.argmax())]
        raise CaptureError(
            f"{head_name(site, head)}: attention sums to 1 ± {float(worst.max()):.2g}, more than {MASS_DEFECT_GATE:g}; "
            "statistics and model saw different masks. Please report the model; its numbers would be wrong"
        )
