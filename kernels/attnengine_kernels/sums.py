"""The names, shapes and meanings of what every path (reference, CPU, Triton) returns for one attention call.

All tensors are fp64 on the call's device, one row per window of the batch, so that the engine can add them over the
windows of a document group. Row sums run over the *counted* query rows that see at least one key; pair sums over
the visible pairs of those rows. ``p`` is the pattern (with a learned sink it sums to less than 1), ``p^`` is p
renormalised over the keys; STATISTICS.md in the project's notes, and ``attnengine.statistics.catalogue``, give the
definitions behind the names.

A statistic that a call has no definition for (offsets of cross-attention, token identity of patches) is *absent*
from the result, never zero.

Ratios: ``x`` (b, h) is a sum and ``x_n`` (b, h) its number of rows, keys or pairs; the statistic is Σx / Σx_n.

    entropy             H(p^) in nats                                       n: rows
    entropy_normalized  H / log(visible keys)                               n: rows that see >= 2 keys
    p_max               max_j p^                                            n: rows
    offset_mean         Σ_j p^ (i - j), positions                           n: rows with a position
    distance_mean       Σ_j p^ |i - j| (Euclidean in patches for images)    n: rows with a position
                        (for images p^ is renormalised over the keys that have a position; the rows are those that
                        see one. Both are absent for cross-attention.)
    <name>_mass         Σ_{j in T(i)} p                                     n: rows with a visible target
                        self, previous, next (absent for cross-attention); every class of the key tokens (first,
                        special, punctuation, ...); same_token, induction (absent without token ids; in
                        cross-attention i and j count different tokens, so no key is left out as the query itself);
                        cross_sentence (both stand in a sentence, not the same; absent without sentences and for
                        cross-attention); learned_sink (p_sink; absent without a sink; n: rows). Padding is never
                        a target.
    score_mean          score                                               n: pairs
    query_norm          |q|, unscaled                                       n: rows
    key_norm            |k| of counted keys (of the head's key head)        n: counted keys
    qk_cosine           cosine of q and k (0 where a norm is 0)             n: pairs
    received_gini       Gini of a_j over real keys seen by >= 8 rows, times the number of those keys   n: those keys
    value_weighted_first_mass  p_i0 |v_0| / Σ_j p_ij |v_j|, 0 the window's first real key
                                                                            n: rows with a denominator > 0
    mass_defect_mean    |Σ_j p + p_sink - 1| with the lse that was given    n: rows

Extremes (b, h): ``score_min``, ``score_max`` (+inf / -inf if there is no pair), ``mass_defect_max`` (0 if no row).

Second moments, each about the window's own mean so that no digits are lost (the engine shifts them to its pilot):

    score_m2         (b, h)     Σ_pairs (s - mean s)^2
    qk               (b, h, d)  Σ_pairs x, x = q_d k_d unscaled
    qk_m2            (b, h, d)  Σ_pairs (x - mean x)^2
    qk_min, qk_max   (b, h, d)  extremes of x over the pairs (+inf / -inf if there is none)
    qk_positive      (b, h, d)  number of pairs with x > 0
    qk_attended      (b, h, d)  Σ_i Σ_j p^ x
    qk_attended_m2   (b, h, d)  Σ_i Σ_j p^ (x - qk_attended / n_queries)^2
    share            (b, h, d)  c Σ_i Cov_j(x_ij, s°_ij), s° = c q.k without bias and cap, population moments in a row
    share_n          (b, h)     Σ_i Var_j(s°_ij)      (so share sums to share_n over d)

Correlation of x with distance, over the pairs where both sides have a position (absent for cross-attention):

    distance_pairs   (b,)       number of pairs
    distance_sum     (b,)       Σ δ, δ = |i - j| (Euclidean in patches for images)
    distance_m2      (b,)       Σ (δ - mean δ)^2
    distance_qk      (b, h, d)  Σ x over these pairs          (== qk for text)
    distance_qk_m2   (b, h, d)  Σ (x - mean)^2 over these     (== qk_m2 for text)
    distance_qk_co   (b, h, d)  Σ (x - mean x)(δ - mean δ)

Profiles and patterns (profile absent for cross-attention; both use positions, so prefix tokens stay out):

    profile          (b, h, n_bins)  Σ p by signed offset, bins of :func:`profile_edges`
    profile_n        (b, n_bins)     rows with a visible key in the bin
    pattern          (b, h, 32, 32)  Σ p by relative position bins (query bin floor(32 i / n), key bin floor(32 j / n),
                                     n the number of positions of that side in the window: its last one + 1)
    pattern_n        (b, 32)         rows in the query bin

Counts belong to windows, not heads, so a bias may hide (-inf) a pair in all heads or in none, else ValueError. A
NaN in a head's own query, key or bias makes that head's sums NaN and no other's; one in its values makes
value_weighted_first_mass NaN, the only sum that reads them.

Of every key, for whoever wants to know which tokens are attended:

    received         (b, h, k)  Σ_i p_ij
    received_fair    (b, k)     Σ_i 1[j visible to i] / n_i, n_i the keys that row i sees: what an even head would give

Counts (b,): ``n_queries`` rows, ``n_pairs``, ``n_empty_rows`` (counted rows without a visible key), ``n_keys``
(counted keys).

A call may ask for ``stats="core"``: :data:`CORE` and every ``<name>_mass`` of targets with its ``_n``, all that needs
no moment of the scores, no profile and no pattern. The rest is absent, too; what core keeps is the same to rounding.
"""

from __future__ import annotations

EXACT_OFFSETS = 128
PATTERN_BINS = 32
PER_KEY = ("received", "received_fair")  # the sums that have one number a key
RECEIVED_MIN_ROWS = 8  # a key seen by fewer rows stays out of received_gini

STATS = ("all", "core")
#: What core keeps beside the masses, whose names are open: each class of tokens has one.
CORE = frozenset(
    {
        *("entropy", "entropy_n", "entropy_normalized", "entropy_normalized_n", "p_max", "p_max_n"),
        *("offset_mean", "offset_mean_n", "distance_mean", "distance_mean_n"),
        *("mass_defect_mean", "mass_defect_mean_n", "mass_defect_max"),
        *("qk", "qk_attended", "n_queries", "n_pairs", "n_empty_rows"),
    }
)

#: Absolute limits against the fp64 reference, always binding (KERNELS.md section 4).
LIMIT_ENTROPY = 1e-4  # nats a row
LIMIT_MASS = 1e-5  # a row
LIMIT_ATTENDED_FP32 = 1e-5  # relative
LIMIT_ATTENDED_BF16 = 2e-3  # relative


def keeps(stats: str, name: str) -> bool:
    """Whether a result of ``stats`` (one of :data:`STATS`) holds the sum ``name`` where the call defines it."""
    is_target_mass = name.removesuffix("_n").endswith("_mass") and not name.startswith("value_weighted_")
    return stats == "all" or name in CORE or is_target_mass


def profile_edges(max_length: int) -> list[tuple[int, int]]:
    """Half-open bins [lo, hi) of the signed offset i - j, ascending, that cover every |offset| < max_length.

    One bin per offset for |offset| < 128, then ±[2^k, 2^(k+1)), half-open away from zero: the negative twin of
    [128, 256) holds -128 … -255 and is written [-255, -127) so that every bin reads lo <= offset < hi.
    """
    far: list[tuple[int, int]] = []
    start = EXACT_OFFSETS
    while start < max_length:
        far.append((start, 2 * start))
        start *= 2
    near = range(-EXACT_OFFSETS + 1, EXACT_OFFSETS)
    return [(-hi + 1, -lo + 1) for lo, hi in reversed(far)] + [(d, d + 1) for d in near] + far
