"""Statistics of attention without its L×L matrix: Triton on CUDA, compiled passes on the CPU, one reference for both.

Knows tensors only. :func:`head_sums` gives every sum of :mod:`attnengine_kernels.sums` for one attention call,
:func:`pattern_rows` the whole pattern of chosen rows, :func:`sampled_rows` and :func:`heaviest_keys` their heaviest
keys; :func:`path_for` says which implementation runs; :func:`attention_with_lse` is plain SDPA that keeps its
log-sum-exp; :mod:`.intervals` makes masks. The Triton passes by themselves are in :mod:`attnengine_kernels.gpu`.
"""

from attnengine_kernels import intervals as intervals
from attnengine_kernels._facts import Memory as Memory
from attnengine_kernels.api import head_sums as head_sums
from attnengine_kernels.api import path_for as path_for
from attnengine_kernels.call import AttentionCall as AttentionCall
from attnengine_kernels.call import HeadSums as HeadSums
from attnengine_kernels.call import TokenFacts as TokenFacts
from attnengine_kernels.call import empty_facts as empty_facts
from attnengine_kernels.topk import PatternRows as PatternRows
from attnengine_kernels.topk import TopKeys as TopKeys
from attnengine_kernels.topk import heaviest_keys as heaviest_keys
from attnengine_kernels.topk import pattern_rows as pattern_rows
from attnengine_kernels.topk import sampled_rows as sampled_rows
from attnengine_kernels.vendor import attention_with_lse as attention_with_lse

__all__ = [
    "AttentionCall",
    "HeadSums",
    "Memory",
    "PatternRows",
    "TokenFacts",
    "TopKeys",
    "attention_with_lse",
    "empty_facts",
    "head_sums",
    "heaviest_keys",
    "intervals",
    "path_for",
    "pattern_rows",
    "sampled_rows",
]
