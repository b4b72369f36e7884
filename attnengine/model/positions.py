"""How many positions a model has, read from its layers where they say it and from its configuration else."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_LEARNED = ("position_embeddings", "position_embedding")
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "seq_length")


def max_positions(model: PreTrainedModel) -> int | None:
    """The longest window the model takes, in tokens with special ones; None if nothing limits it.

    Learned tables are counted without the rows RoBERTa's kin keep for padding (514 rows, 512 positions), in images
    they give the fixed sequence length with prefix tokens. ALiBi and T5's relative bias set no limit.
    """
    learned = _learned_positions(model)
    if learned is not None:
        return learned
    if _is_relative(model.config):
        return None
    for name in _LIMITS:
        limit = getattr(model.config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def _learned_positions(model: PreTrainedModel) -> int | None:
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _LEARNED and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    for name, table in model.named_parameters():
        if name.rpartition(".")[2] in _LEARNED and table.dim() == 3:  # images: (1, positions, width)
            return table.shape[1]
    return None


def _is_relative(config: PreTrainedConfig) -> bool:
    attention = getattr(config, "attn_config", None)
    return bool(
        getattr(config, "relative_attention_num_buckets", None)
        or getattr(config, "alibi", False)
        or getattr(attention, "alibi", False)
        or config.model_type == "bloom"
    )
