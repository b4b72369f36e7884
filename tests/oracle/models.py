"""The nine models: tiny configurations with seeded wide weights, and the real MiniLM; with their tokenizers.

A case says of its model only what its configuration says: heads, scale, window, soft-cap, where positions enter and
which module projects. What attention computes from that is written in ``eager.py`` and ``brute_force.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tokenizers as tk
import torch
import transformers as tf

from attnengine.bundled import bundled_model
from tests.oracle.texts import BRIEF, STRANGE, TEXTS, pictures

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
VOCABULARY = 330


@dataclass(frozen=True)
class Layer:
    """One attention call of a forward: where it stands, which modules project, what it may see."""

    stack: str
    kind: str
    layer: int
    module: str
    projections: tuple[str, ...]  # of query, key, value; a single one holds all three side by side
    causal: bool = False
    window: int | None = None  # key j is seen from row i if i - j < window
    bias_table: str = ""  # T5: the parameter (buckets, heads) of the stack's relative bias
    sinks: str = ""  # GPT-OSS: the parameter (heads,) of learned sinks


@dataclass(frozen=True)
class Case:
    """A model of the oracle and how it is asked."""

    make: Callable[[str | None], Any]  # attention implementation -> the model, the same weights each time
    reader: Callable[[], Any]  # tokenizer or image processor
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    scale: float
    documents: Callable[[], list[Any]] = lambda: TEXTS
    softcap: float | None = None
    rope: str = ""  # "theta": computed here from the configuration; "module": what the model's rotary module returns
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    window: int = 320
    decoder_start: int | None = None
    grid: tuple[int, int] | None = None  # patches of a picture: rows, columns
    settings: dict[str, Any] = field(default_factory=dict)  # for ae.analyze


@cache
def byte_tokenizer(prefix: tuple[str, ...] = (), suffix: tuple[str, ...] = ()) -> Any:
    """A small byte-level BPE trained on the texts: tokens shorter than words, characters of several tokens."""
    model = tk.Tokenizer(tk.models.BPE(unk_token=None))
    model.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tk.decoders.ByteLevel()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[PAD, BOS, EOS, UNK],
        initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(TEXTS, trainer)
    model.add_tokens(["=)"])  # half punctuation: no punctuation token
    if prefix or suffix:
        marks = sorted({*prefix, *suffix})
        model.post_processor = tk.processors.TemplateProcessing(
            single=" ".join([*prefix, "$A", *suffix]), special_tokens=[(m, model.token_to_id(m)) for m in marks]
        )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK
    )


def random_model(model: str, config: Callable[[], Any], seed: int, gain: float = 1.2) -> Callable[[str | None], Any]:
    """A maker of the model with seeded weights wide enough that no pattern is flat, biases and sinks included."""

    def make(implementation: str | None) -> Any:
        torch.manual_seed(seed)
        settings = config()
        settings._attn_implementation = implementation
        made = getattr(tf, model)(settings)
        with torch.no_grad():
            for _, weight in sorted(made.named_parameters()):
                if weight.dim() > 1:
                    weight.normal_(0, gain / weight.shape[-1] ** 0.5)
                else:  # norms stay near 1, biases near 0, sinks far enough from both to matter
                    weight.add_(0.3 * torch.randn_like(weight))
        return made.eval()

    return make


def minilm(implementation: str | None) -> Any:
    """The bundled real model."""
    return tf.AutoModel.from_pretrained(
        bundled_model("minilm"), attn_implementation=implementation, local_files_only=True
    )


def pair_config(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(tf, kind)(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, **more,
    )  # fmt: skip


def llama_config(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(tf, kind)(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip


def causal_layers(windows: tuple[int | None, ...], sinks: bool = False) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            "", "self", layer, f"layers.{layer}.self_attn", ("q_proj", "k_proj", "v_proj"), True, window,
            sinks=f"layers.{layer}.self_attn.sinks" if sinks else "",
        )
        for layer, window in enumerate(windows)
    )  # fmt: skip


def pair_layers(names: Callable[[str, str, int], str], projections: tuple[str, ...], bias: str) -> tuple[Layer, ...]:
    """Encoder self, then for each decoder layer self and cross; ``bias`` is T5's table with {stack} to fill in."""
    out = [
        Layer("encoder", "self", n, names("encoder", "self", n), projections, bias_table=bias.format(stack="encoder"))
        for n in range(2)
    ]
    for n in range(2):
        table = bias.format(stack="decoder")
        out.append(Layer("decoder", "self", n, names("decoder", "self", n), projections, True, bias_table=table))
        out.append(Layer("decoder", "cross", n, names("decoder", "cross", n), projections))
    return tuple(out)


def t5_module(stack: str, kind: str, layer: int) -> str:
    name = "layer.0.SelfAttention" if kind == "self" else "layer.1.EncDecAttention"
    return f"{stack}.block.{layer}.{name}"


def bart_module(stack: str, kind: str, layer: int) -> str:
    return f"{stack}.layers.{layer}.{'self_attn' if kind == 'self' else 'encoder_attn'}"


GPT2 = Case(
    random_model(
        "GPT2Model",
        lambda: tf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=320, bos_token_id=1, eos_token_id=2
        ),
        1,
    ),
    byte_tokenizer,
    tuple(Layer("", "self", n, f"h.{n}.attn", ("c_attn",), True) for n in range(2)),
    heads=4, kv_heads=4, scale=8**-0.5,
)  # fmt: skip
WITH_BOS = {"reader": lambda: byte_tokenizer((BOS,)), "prefix": (BOS,)}

CASES: dict[str, Case] = {
    "minilm": Case(
        minilm,
        lambda: tf.AutoTokenizer.from_pretrained(bundled_model("minilm"), local_files_only=True),
        tuple(Layer("", "self", n, f"encoder.layer.{n}.attention.self", ("query", "key", "value")) for n in range(6)),
        heads=12, kv_heads=12, scale=32**-0.5, documents=lambda: STRANGE, prefix=("[CLS]",), suffix=("[SEP]",),
        window=512,
    ),
    "gpt2": GPT2,
    "llama": Case(
        random_model("LlamaModel", llama_config("LlamaConfig"), 2), **WITH_BOS, layers=causal_layers((None, None)),
        heads=4, kv_heads=2, scale=8**-0.5, rope="theta", window=90, settings={"window": 90},
    ),
    "mistral": Case(
        random_model("MistralModel", llama_config("MistralConfig", sliding_window=9), 3), **WITH_BOS,
        layers=causal_layers((9, 9)), heads=4, kv_heads=2, scale=8**-0.5, rope="theta", window=512,
    ),
    "gemma2": Case(
        random_model(
            "Gemma2Model",
            llama_config(
                "Gemma2Config", head_dim=8, sliding_window=9, layer_types=["sliding_attention", "full_attention"],
                attn_logit_softcapping=2.0, query_pre_attn_scalar=5,
            ),
            4, 1.0,
        ),
        **WITH_BOS, layers=causal_layers((9, None)), heads=4, kv_heads=2, scale=5**-0.5, softcap=2.0, rope="theta",
        window=512,
    ),
    "gpt_oss": Case(
        random_model(
            "GptOssModel",
            llama_config(
                "GptOssConfig", head_dim=8, sliding_window=9, layer_types=["sliding_attention", "full_attention"],
                num_local_experts=4, num_experts_per_tok=2,
                rope_parameters={
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
                    "rope_theta": 10000.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                },
            ),
            5,
        ),
        **WITH_BOS, layers=causal_layers((9, None), sinks=True), heads=4, kv_heads=2, scale=8**-0.5, rope="module",
        window=512,
    ),
    "t5": Case(
        random_model(
            "T5Model",
            lambda: tf.T5Config(
                vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
                eos_token_id=2, decoder_start_token_id=0,
            ),
            6, 0.9,
        ),
        lambda: byte_tokenizer((), (EOS,)),
        pair_layers(
            t5_module, ("q", "k", "v"), "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        heads=4, kv_heads=4, scale=1.0, suffix=(EOS,), window=1024, decoder_start=0,
        documents=lambda: BRIEF,
    ),
    "bart": Case(
        random_model("BartModel", pair_config("BartConfig", max_position_embeddings=128), 7),
        lambda: byte_tokenizer((BOS,), (EOS,)),
        pair_layers(bart_module, ("q_proj", "k_proj", "v_proj"), ""),
        heads=4, kv_heads=4, scale=8**-0.5, prefix=(BOS,), suffix=(EOS,), window=128, decoder_start=2,
        documents=lambda: BRIEF,
    ),
    "vit": Case(
        random_model(
            "ViTModel",
            lambda: tf.ViTConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=(16, 24),
                patch_size=4,
            ),
            8,
        ),
        lambda: tf.ViTImageProcessorPil(size={"height": 16, "width": 24}),
        tuple(
            Layer("", "self", n, f"layers.{n}.attention", ("q_proj", "k_proj", "v_proj")) for n in range(2)
        ),
        heads=4, kv_heads=4, scale=8**-0.5, documents=pictures, grid=(4, 6),
    ),
}  # fmt: skip
