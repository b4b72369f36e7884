"""Tiny random models of 31 families, and padded batches for them: the oracle's models.

``build(name)`` gives a seeded model in eval mode, ``batch(name, side)`` a batch whose second row is padded. Weights
are drawn wide, so that patterns are far from uniform and a wrong mask, scale or bias shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf

VOCABULARY = 97
LENGTH = 21
PADDED = 8  # positions of the second row that are padding


@dataclass(frozen=True)
class Family:
    """One family: how to configure it tiny, the class to build, what its batch looks like."""

    config: Callable[[], Any]
    model: str  # class name in transformers
    inputs: str  # "text", "pair" (encoder-decoder), "image", "audio" or "mel"
    calls: int  # attention calls in one forward
    sdpa: bool = True  # stock transformers runs it with SDPA
    gain: float = 1.2  # spread of the weights; T5 does not scale its scores and needs less


def _bert(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(tf, kind)(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **more
    )


def _llama(kind: str, **more: Any) -> Callable[[], Any]:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return lambda: getattr(tf, kind)(**(sizes | more))


def _vision(kind: str, **more: Any) -> Callable[[], Any]:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
    }
    return lambda: getattr(tf, kind)(**(sizes | more))


def _gpt2() -> Any:
    return tf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)


def _distilbert() -> Any:
    return tf.DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48)


def _opt() -> Any:
    return tf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48,
        max_position_embeddings=64, word_embed_proj_dim=32,
    )  # fmt: skip


def _neox() -> Any:
    return tf.GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip


def _t5() -> Any:
    return tf.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )


def _encoder_decoder(kind: str, **more: Any) -> Any:
    return getattr(tf, kind)(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, **more,
    )  # fmt: skip


def _whisper() -> Any:
    return _encoder_decoder(
        "WhisperConfig", num_mel_bins=8, max_source_positions=16, max_target_positions=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip


def _wav2vec2() -> Any:
    return tf.Wav2Vec2Config(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
    )  # fmt: skip


_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
_WINDOWED = {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA = _WINDOWED | {"query_pre_attn_scalar": 8}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(_gpt2, "GPT2Model", "text", 2),
    "bert": Family(_bert("BertConfig"), "BertModel", "text", 2),
    "roberta": Family(_bert("RobertaConfig", max_position_embeddings=66), "RobertaModel", "text", 2),
    "distilbert": Family(_distilbert, "DistilBertModel", "text", 2),
    "electra": Family(_bert("ElectraConfig", embedding_size=32), "ElectraModel", "text", 2),
    "albert": Family(_bert("AlbertConfig", embedding_size=16), "AlbertModel", "text", 2),
    "llama": Family(_llama("LlamaConfig"), "LlamaModel", "text", 2),
    "qwen2": Family(_llama("Qwen2Config"), "Qwen2Model", "text", 2),
    "qwen3": Family(_llama("Qwen3Config", head_dim=16), "Qwen3Model", "text", 2),
    "phi3": Family(_llama("Phi3Config"), "Phi3Model", "text", 2),
    "stablelm": Family(_llama("StableLmConfig"), "StableLmModel", "text", 2),
    "olmo2": Family(_llama("Olmo2Config"), "Olmo2Model", "text", 2),
    "mixtral": Family(_llama("MixtralConfig", **_MOE), "MixtralModel", "text", 2),
    "gpt_neox": Family(_neox, "GPTNeoXModel", "text", 2),
    "opt": Family(_opt, "OPTModel", "text", 2),
    "mistral": Family(_llama("MistralConfig", sliding_window=5), "MistralModel", "text", 2),
    "gemma2": Family(
        _llama("Gemma2Config", attn_logit_softcapping=2.0, **_GEMMA),
        "Gemma2Model", "text", 2, sdpa=False,
    ),
    "gemma3": Family(
        _llama("Gemma3TextConfig", **_GEMMA), "Gemma3TextModel", "text", 2
    ),
    "deepseek_v3": Family(_llama("DeepseekV3Config", **_MLA), "DeepseekV3Model", "text", 2),
    "gpt_oss": Family(
        _llama("GptOssConfig", **_WINDOWED, **_MOE),
        "GptOssModel", "text", 2, sdpa=False,
    ),
    "t5": Family(_t5, "T5Model", "pair", 6, gain=0.7),
    "bart": Family(lambda: _encoder_decoder("BartConfig", max_position_embeddings=64), "BartModel", "pair", 6),
    "whisper": Family(_whisper, "WhisperModel", "mel", 6),
    "vit": Family(_vision("ViTConfig"), "ViTModel", "image", 2),
    "deit": Family(_vision("DeiTConfig"), "DeiTModel", "image", 2),
    "clip_text": Family(
        _bert("CLIPTextConfig", max_position_embeddings=64, eos_token_id=2), "CLIPTextModel", "text", 2
    ),
    "clip_vision": Family(_vision("CLIPVisionConfig"), "CLIPVisionModel", "image", 2),
    "dinov2": Family(_vision("Dinov2Config", mlp_ratio=2), "Dinov2Model", "image", 2),
    "dinov3": Family(_vision("DINOv3ViTConfig", num_register_tokens=2), "DINOv3ViTModel", "image", 2),
    "siglip_vision": Family(_vision("SiglipVisionConfig", vision_use_head=False), "SiglipVisionModel", "image", 2),
    "wav2vec2": Family(_wav2vec2, "Wav2Vec2Model", "audio", 2),
    "modernbert": Family(
        _bert("ModernBertConfig", local_attention=8, global_attn_every_n_layers=2, pad_token_id=0), "ModernBertModel",
        "text", 2,
    ),
}  # fmt: skip

TEXT = [name for name, family in FAMILIES.items() if family.inputs == "text"]


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The family's tiny model, seeded, in eval mode."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(tf, family.model)(family.config())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(
                    0, family.gain / parameter.shape[-1] ** 0.5
                )  # the defaults make every pattern uniform
            elif key.endswith("sinks"):
                parameter.normal_()
    return model.to(dtype).eval()


def batch(name: str, side: str = "right", length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Inputs of two windows; where the family reads text (or audio) the second is padded on ``side``."""
    draw = torch.Generator().manual_seed(1)
    kind = FAMILIES[name].inputs
    ids = torch.randint(3, VOCABULARY, (2, length), generator=draw)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, :PADDED] = 0
    mask = mask if side == "left" else mask.flip(-1)
    if kind == "image":
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=draw)}
    if kind == "mel":
        features = torch.randn(2, 8, 32, generator=draw)
        return {"input_features": features, "decoder_input_ids": ids, "decoder_attention_mask": mask}
    if kind == "audio":
        return {"input_values": torch.randn(2, 300, generator=draw), "attention_mask": _audio_mask(300)}
    text = {"input_ids": ids, "attention_mask": mask}
    if kind == "pair":
        decoder = torch.randint(3, VOCABULARY, (2, 11), generator=draw)
        return text | {"decoder_input_ids": decoder, "decoder_attention_mask": mask[:, -11:]}
    return text


def _audio_mask(samples: int) -> torch.Tensor:
    mask = torch.ones(2, samples, dtype=torch.long)
    mask[1, samples * 2 // 3 :] = 0
    return mask
