"""The keywords models pass to their attention function: honoured, harmless, or refused by name.

A keyword nobody here has thought about may change the mathematics. So an unknown one that is not None stops the run
with its name: a new transformers release then fails loudly instead of giving wrong numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attnengine.errors import UnsupportedModelError

# Read by flash attention only, already applied to q and k, or about what the forward returns.
HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "target_dtype",
        "token_type_ids",
        "use_cache",
    }
)
HONOURED = frozenset({"is_causal", "position_bias", "s_aux", "sliding_window", "softcap"})
_STOCK_TAKES_BIAS = "position_bias" in inspect.signature(sdpa_attention_forward).parameters


@dataclass(frozen=True)
class Keywords:
    """What one attention call asked for beyond query, key, value, mask and scale."""

    is_causal: bool | None = None
    position_bias: Tensor | None = None  # (1 or b, h, q, k), added to the scores
    sliding_window: int | None = None  # already in the mask; kept for the site table
    softcap: float | None = None
    sink: Tensor | None = None  # (h,)

    @property
    def beyond_sdpa(self) -> bool:
        """SDPA cannot compute this call."""
        return self.softcap is not None or self.sink is not None


def read_keywords(name: str, dropout: float, heads: int, kwargs: Mapping[str, Any]) -> Keywords:
    """Sort the keywords of the call made by module ``name``; UnsupportedModelError for any that cannot be honoured."""
    given = {keyword: value for keyword, value in kwargs.items() if value is not None and keyword not in HARMLESS}
    unknown = sorted(set(given) - HONOURED)
    if unknown:
        raise UnsupportedModelError(
            f"{name} passes {', '.join(unknown)} to its attention function, which attnengine does not know: "
            "expected none that may change the mathematics; report the model, or use another"
        )
    if dropout:
        raise UnsupportedModelError(f"{name} applies attention dropout {dropout} in eval mode; expected none")
    sink = given.get("s_aux")
    if sink is not None and tuple(sink.shape) != (heads,):
        raise UnsupportedModelError(f"{name} passes s_aux of shape {tuple(sink.shape)}; expected one sink a head")
    if "position_bias" in given and not (_STOCK_TAKES_BIAS or sink is not None or "softcap" in given):
        raise UnsupportedModelError(
            f"{name} passes position_bias, which SDPA in this transformers release ignores: install a newer one"
        )
    return Keywords(
        is_causal=given.get("is_causal"),
        position_bias=given.get("position_bias"),
        sliding_window=given.get("sliding_window"),
        softcap=given.get("softcap"),
        sink=None if sink is None else sink.detach(),  # a parameter: the one tensor here that asks for gradients
    )
