"""How many padded tokens a batch has: fixed in the plan, because batch shapes change floating-point bits."""

from __future__ import annotations

import torch

from attnengine.corpus.plan import Plan, pack
from attnengine.corpus.windows import Feed
from attnengine.model.capture import Capture
from attnengine.model.load import LoadedModel
from attnengine.records import Site
from attnengine.run.choice import choose
from attnengine.run.engine import Job, run_batch
from attnengine.run.sampling import Sample
from attnengine.statistics.accumulate import Pilot, SiteSums

ON_CPU = 4096  # more does not make a CPU faster
MOST = 2**18
SHARE = 0.6  # of the memory that is free at planning: others use the device, too, and memory falls into pieces


def batch_tokens_for(loaded: LoadedModel, sites: list[Site], feed: Feed, device: str, stats: str) -> int:
    """4096 on the CPU; on CUDA what fits, found by running one batch of the longest windows with all statistics."""
    if torch.device(device).type != "cuda":
        return ON_CPU
    windows = pack(feed.n_tokens, ON_CPU)[0]
    width = int(feed.n_tokens[list(windows)].max())
    group = torch.zeros(len(windows), dtype=torch.int64)
    empty = torch.empty(0, dtype=torch.int32).numpy()
    plan = Plan((windows,), ((0,),), group.numpy(), 1, empty, empty, empty > 0, "")
    job = Job(loaded, sites, feed, plan, device, choose(sites, None, None), stats)
    sums = [SiteSums(Pilot.zero(site.n_heads, site.d_qk)) for site in sites]
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with Capture(loaded.model, sites) as capture:
        run_batch(job, capture, windows, group, sums, Sample())
    used = torch.cuda.max_memory_allocated(device) - before
    return that_fit(free, used, len(windows) * width)


def that_fit(free: int, used: int, tokens: int) -> int:
    """The power of two of tokens that ``free`` bytes hold if ``tokens`` of them used ``used``; 512 to 2¹⁸.

    A power of two, so that equal devices with a little more or less free memory agree on the plan.
    """
    fit = int(SHARE * free * tokens / max(used, 1))
    return min(max(2 ** max(fit.bit_length() - 1, 0), 512), MOST)
