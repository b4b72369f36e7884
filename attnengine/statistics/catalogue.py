"""Every statistic of the tables: name, title, unit, range, formula, paper. Pure data; no torch.

STATISTICS.md is the contract these entries repeat in one line each. A new statistic is an entry here, its definition
in ``attnengine_kernels.reference`` and the same name in the fast paths; the accumulator reads ``estimator`` to know
how its sums become a value and a standard error.
"""

from __future__ import annotations

from dataclasses import dataclass

BERTVIZ = "Vig 2019, arXiv 1906.05714"
CLARK = "Clark et al. 2019, arXiv 1906.04341"
OLSSON = "Olsson et al. 2022, arXiv 2209.11895"
VIG_BELINKOV = "Vig & Belinkov 2019, arXiv 1906.04284"
VOITA = "Voita et al. 2019, arXiv 1905.09418"
WANG = "Wang et al. 2022, arXiv 2211.00593"
XIAO = "Xiao et al. 2023, arXiv 2309.17453"
KOBAYASHI = "Kobayashi et al. 2020, arXiv 2004.10102"
ATTENTIONVIZ = "Yeh et al. 2023, arXiv 2305.03210"


@dataclass(frozen=True)
class Statistic:
    """One column of a table.

    ``estimator`` is "ratio" (Σx/Σn over document groups), "std", "gini", "correlation", "share" (delete-one-group
    jackknife), "variance", "extreme" or "count" (no standard error), or "type" (a bootstrap interval instead).
    """

    name: str
    title: str
    unit: str
    low: float | None
    high: float | None
    formula: str
    group: str
    paper: str = ""
    estimator: str = "ratio"

    @property
    def signed(self) -> bool:
        """Whether values of both signs are expected, so that zero deserves the middle of the colour scale."""
        return self.low is None or self.low < 0

    @property
    def has_error(self) -> bool:
        """Whether the table carries ``<name>_se``."""
        return self.estimator not in ("extreme", "count", "type")


def mass(name: str, title: str, target: str, paper: str = "") -> Statistic:
    """The entry of a mass Σ_{j∈T(i)} p_ij over rows with at least one visible target."""
    formula = f"Σ_j p_ij over {target}; rows with a visible target"
    return Statistic(name, title, "share", 0.0, 1.0, formula, "where it looks", paper)


_HEADS = [
    Statistic("entropy", "Entropy", "nats", 0, None, "H_i = -Σ_j p̂_ij log p̂_ij", "how sharp", CLARK),
    Statistic("entropy_normalized", "Normalised entropy", "", 0, 1, "H_i / log(visible keys of i)", "how sharp", CLARK),
    Statistic("p_max", "Largest weight", "", 0, 1, "max_j p̂_ij", "how sharp"),
    Statistic("offset_mean", "Mean offset", "tokens", None, None, "Σ_j p̂_ij (i − j)", "how far", VIG_BELINKOV),
    Statistic("distance_mean", "Mean distance", "tokens", 0, None, "Σ_j p̂_ij |i − j|", "how far", VIG_BELINKOV),
    mass("self_mass", "On itself", "{i}"),
    mass("previous_mass", "On the previous token", "{i−1}", CLARK),
    mass("next_mass", "On the next token", "{i+1}", CLARK),
    mass("first_mass", "On the first token", "{the window's first real token}", XIAO),
    mass("special_mass", "On special tokens", "{special tokens except unk}", CLARK),
    mass("punctuation_mass", "On punctuation", "{tokens whose every character is Unicode P}", CLARK),
    mass("same_token_mass", "On the same token", "{token[j] = token[i], j ≠ i}", OLSSON),
    mass("induction_mass", "Induction", "{token[j−1] = token[i], j ≠ i, i+1}", OLSSON),
    mass("cross_sentence_mass", "On other sentences", "{j in another sentence}", BERTVIZ),
    mass("learned_sink_mass", "On the learned sink", "the learned sink: p_sink", XIAO),
    Statistic("score_mean", "Mean score", "", None, None, "mean s_ij over visible pairs", "scores"),
    Statistic(
        "score_std",
        "Score spread",
        "",
        0,
        None,
        "standard deviation of s_ij over visible pairs",
        "scores",
        estimator="std",
    ),
    Statistic(
        "score_min", "Lowest score", "", None, None, "min s_ij over visible pairs", "scores", estimator="extreme"
    ),
    Statistic(
        "score_max", "Highest score", "", None, None, "max s_ij over visible pairs", "scores", estimator="extreme"
    ),
    Statistic("query_norm", "Query norm", "", 0, None, "mean ‖q_i‖, unscaled", "scores", ATTENTIONVIZ),
    Statistic("key_norm", "Key norm", "", 0, None, "mean ‖k_j‖, unscaled", "scores", ATTENTIONVIZ),
    Statistic("qk_cosine", "Query–key cosine", "", -1, 1, "mean cos(q_i, k_j) over visible pairs", "scores"),
    Statistic(
        "received_gini",
        "Inequality of received attention",
        "",
        0,
        1,
        "Gini of a_j = Σ_i p_ij / Σ_i (1[j visible to i] / n_i), per window",
        "where it looks",
        estimator="gini",
    ),
    Statistic(
        "value_weighted_first_mass",
        "Value-weighted first-token share",
        "share",
        0,
        1,
        "mean p_i0‖v_0‖ / Σ_j p_ij‖v_j‖",
        "where it looks",
        KOBAYASHI,
    ),
    Statistic("mass_defect_mean", "Mass defect, mean", "", 0, None, "|Σ_j p_ij + p_sink − 1|", "checks"),
    Statistic(
        "mass_defect_max",
        "Mass defect, largest",
        "",
        0,
        None,
        "max_i |Σ_j p_ij + p_sink − 1|",
        "checks",
        estimator="extreme",
    ),
    Statistic("n_queries", "Rows", "", 0, None, "counted query rows that see a key", "checks", estimator="count"),
    Statistic("n_pairs", "Visible pairs", "", 0, None, "visible query–key pairs", "checks", estimator="count"),
    Statistic(
        "n_empty_rows",
        "Rows without a key",
        "",
        0,
        None,
        "counted query rows that see no key",
        "checks",
        estimator="count",
    ),
]

_NEURONS = [
    Statistic("qk_mean", "Mean q⊙k", "", None, None, "mean of q_id k_jd over visible pairs", "products", BERTVIZ),
    Statistic(
        "qk_var",
        "Variance of q⊙k",
        "",
        0,
        None,
        "variance of q_id k_jd over visible pairs",
        "products",
        estimator="variance",
    ),
    Statistic("qk_min", "Smallest q⊙k", "", None, None, "min q_id k_jd", "products", estimator="extreme"),
    Statistic("qk_max", "Largest q⊙k", "", None, None, "max q_id k_jd", "products", estimator="extreme"),
    Statistic("qk_sign_agreement", "Sign agreement", "share", 0, 1, "share of pairs with q_id k_jd > 0", "products"),
    Statistic("qk_attended_mean", "Mean attended q⊙k", "", None, None, "mean_i q_id (ÂK)_id", "attended", BERTVIZ),
    Statistic(
        "qk_attended_var",
        "Variance of attended q⊙k",
        "",
        0,
        None,
        "mean_i q_id² (ÂK²)_id − (mean_i q_id (ÂK)_id)²",
        "attended",
        estimator="variance",
    ),
    Statistic(
        "score_variance_share",
        "Share of score variance",
        "share",
        None,
        None,
        "c Σ_i Cov_j(q_id k_jd, s°_ij) / Σ_i Var_j(s°_ij); sums to 1 over neurons",
        "what decides",
        estimator="share",
    ),
    Statistic(
        "qk_distance_corr",
        "Correlation with distance",
        "",
        -1,
        1,
        "Pearson of q_id k_jd with |i − j|",
        "what decides",
        BERTVIZ,
        estimator="correlation",
    ),
]


def head_type(name: str, title: str, target: str, paper: str = "", formula: str = "") -> Statistic:
    """The entry of a head type's score: by default the share of the mass outside Z that lies on its target."""
    formula = formula or f"Σ p over {target} ∖ Z / Σ m_i, sampled rows with a target; Z = first token ∪ special tokens"
    return Statistic(f"{name}_score", title, "share", 0.0, 1.0, formula, "head types", paper, estimator="type")


#: Table ``head_types``: type -> its score. Null, interval and q-value are columns beside it.
TYPES: dict[str, Statistic] = {
    "previous_token": head_type("previous_token", "Previous-token head", "{i−1}", CLARK),
    "next_token": head_type("next_token", "Next-token head", "{i+1}", CLARK),
    "duplicate_token": head_type("duplicate_token", "Duplicate-token head", "{token[j] = token[i], j ≠ i}", WANG),
    "induction": head_type("induction", "Induction head", "{token[j−1] = token[i], j ≠ i, i+1}", OLSSON),
    "punctuation": head_type("punctuation", "Punctuation head", "{tokens of Unicode P}", CLARK),
    "cross_sentence": head_type("cross_sentence", "Cross-sentence head", "{j in another sentence}", BERTVIZ),
    "first_token": head_type("first_token", "First-token head", "", XIAO, "mean p on the window's first token"),
    "special_token": head_type("special_token", "Special-token head", "", CLARK, "mean p on special tokens"),
    "local": head_type("local", "Local head", "{0 < |i − j| ≤ 5}", VIG_BELINKOV),
    "positional": head_type(
        "positional", "Positional head", "", VOITA, "Σ_δ f(δ)² / mean_i Σ_j p_ij², |δ| < 128, j ∉ Z, f the mean profile"
    ),
    "broad": head_type("broad", "Broad head", "", CLARK, "mean over rows of entropy / log(keys), visible keys ∉ Z"),
}

HEADS: dict[str, Statistic] = {entry.name: entry for entry in _HEADS}
NEURONS: dict[str, Statistic] = {entry.name: entry for entry in _NEURONS}
CATALOGUE: dict[str, Statistic] = HEADS | NEURONS


def is_mass(name: str) -> bool:
    """Whether a head column is a mass over a target set, with its own count of rows ``<name>_n``."""
    return name.endswith("_mass") and name != "value_weighted_first_mass"
