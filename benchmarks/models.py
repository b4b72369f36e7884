"""Models to time end to end: the bundled MiniLM on real text, known shapes with random weights on made-up text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from attnengine.bundled import bundled_documents, bundled_model
from attnengine.corpus.plan import make_plan
from attnengine.corpus.sources import documents_of
from attnengine.corpus.tokenise import tokenise
from attnengine.corpus.windows import SpecialTokens, TextWindows
from attnengine.model.capture import find_sites
from attnengine.model.load import wrap_model
from attnengine.run.choice import choose
from attnengine.run.engine import Job

VOCABULARY = 4096  # of the made-up text
SHAPES: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2-small": lambda length: GPT2Model(GPT2Config(n_positions=length)),
    "gpt2-3-layers": lambda length: GPT2Model(GPT2Config(n_positions=length, n_layer=3)),
    "llama-3-8b": lambda length: LlamaModel(LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=VOCABULARY, max_position_embeddings=length,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )),
    "llama-small": lambda length: LlamaModel(LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=VOCABULARY, max_position_embeddings=length,
    )),
}  # fmt: skip
NAMES = ("minilm", *SHAPES)


def load(name: str, attention: str, length: int, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model under one attention implementation; shapes have the same random weights every time."""
    if name == "minilm":
        model = AutoModel.from_pretrained(
            bundled_model("minilm"), attn_implementation=attention, add_pooling_layer=False
        )
        return model.to(device, dtype).eval()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = SHAPES[name](length)
    finally:
        torch.set_default_dtype(before)
    model.set_attn_implementation(attention)
    return model.eval()


def job_of(name: str, length: int, tokens: int, device: str, dtype: torch.dtype) -> tuple[Job, tuple[int, ...]]:
    """The engine's job for full windows of ``length``, and the windows of one full batch."""
    model = load(name, "sdpa", length, device, dtype)
    if name == "minilm":
        tokenizer = AutoTokenizer.from_pretrained(bundled_model("minilm"))
        texts = [text for _, text in bundled_documents()]
        inputs = frozenset({"input_ids", "attention_mask", "token_type_ids"})
    else:
        tokenizer, texts = _made_up(tokens + length)
        inputs = frozenset({"input_ids", "attention_mask"})
    loaded = wrap_model(model, tokenizer)
    documents = documents_of(texts)
    feed = TextWindows(documents, tokenise(documents, tokenizer), SpecialTokens.of(tokenizer), length=length,
                       model_inputs=inputs)  # fmt: skip
    plan = make_plan(feed, batch_tokens=tokens, shard_tokens=10**9, sample=0, seed=0, identity={})
    sites = find_sites(loaded.model, feed.batch(plan.batches[-1][:1], device).inputs)
    return Job(loaded, sites, feed, plan, device, choose(sites, None, None)), plan.batches[0]


def _made_up(n: int) -> tuple[FastTokenizer, list[str]]:
    """A tokenizer of numbered words and a text of ``n`` of them, frequent ones more often."""
    vocabulary = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<unk>": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    words = ((VOCABULARY - 1) ** uniform - 1).long().tolist()
    return FastTokenizer(tokenizer_object=tokenizer, unk_token="<unk>"), [" ".join(f"w{i}" for i in words)]
