"""What loads, what it is, and how everything that cannot be loaded says so in one sentence."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from huggingface_hub import constants
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers.utils import logging

from attnengine.bundled import bundled_model
from attnengine.errors import ModelError
from attnengine.model import folders, load
from attnengine.model.load import load_model, wrap_model
from tests.model.families import VOCABULARY, build

needs_image_processor = pytest.mark.skipif(
    type(tf.AutoImageProcessor).__name__ == "DummyObject",
    reason="this transformers release reads images with torchvision only, which is not installed",
)


def tokenizer() -> Any:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="</s>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT as save_pretrained writes it."""
    return saved(build("bert"), tmp_path)


def saved(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_bundled_model_loads_with_its_facts() -> None:
    found = load_model(str(bundled_model("minilm")))
    assert found.class_name == "BertModel"
    assert not found.model.training
    assert (found.max_positions, found.modality, found.is_encoder_decoder) == (512, "text", False)
    assert found.tokenizer.is_fast
    assert (
        found.weights_sha256 == hashlib.sha256((bundled_model("minilm") / "model.safetensors").read_bytes()).hexdigest()
    )
    assert found.revision is None
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert found.as_dict()["config"]["num_hidden_layers"] == 6


def test_a_headed_checkpoint_loads_as_its_base_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    headed = tf.BertForMaskedLM(build("bert").config)
    found = load_model(str(saved(headed, tmp_path)))
    assert found.class_name == "BertModel"
    assert torch.equal(found.model.embeddings.word_embeddings.weight, headed.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("asked", "got"), [("bf16", torch.bfloat16), (torch.float16, torch.float16), ("float64", torch.float64)]
)
def test_dtype_is_taken_by_either_name(folder: Path, asked: Any, got: torch.dtype) -> None:
    assert load_model(str(folder), dtype=asked).model.dtype == got


def test_a_dtype_or_modality_that_does_not_exist_is_a_value_error(folder: Path) -> None:
    for dtype in ("int8", "fp8000", "nn"):
        with pytest.raises(ValueError, match="dtype is one of"):
            load_model(str(folder), dtype=dtype)
    with pytest.raises(ValueError, match="modality"):
        load_model(str(folder), modality="smell")


def test_loading_prints_nothing_and_puts_the_loggers_back(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(str(folder))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_several_weight_files_are_hashed_as_sha256sum_lists_them(tmp_path: Path) -> None:
    build("bert").save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    listing = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    assert load_model(str(tmp_path)).weights_sha256 == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("bert", 512),
        ("roberta", 64),
        ("gpt2", 64),
        ("llama", 64),
        ("gemma2", 64),
        ("opt", 64),
        ("t5", None),
        ("bart", 64),
        ("clip_text", 64),
        ("vit", 17),
        ("clip_vision", 17),
        ("siglip_vision", 16),
        ("dinov3", None),
    ],
)
def test_max_positions_is_what_the_model_takes(name: str, positions: int | None) -> None:
    assert load.max_positions(build(name)) == positions


def test_roberta_really_takes_its_max_positions_and_no_more() -> None:
    model = build("roberta")
    ids = torch.full((1, 64), 5)
    with torch.inference_mode():
        model(ids)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 65), 5))


def test_alibi_sets_no_limit() -> None:
    config = tf.FalconConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, alibi=True)
    assert load.max_positions(tf.FalconModel(config)) is None


def test_encoder_decoders_know_their_start_token(tmp_path: Path) -> None:
    found = load_model(str(saved(build("t5"), tmp_path)))
    assert found.is_encoder_decoder
    assert found.decoder_start_token_id == 0
    assert found.max_positions is None


@needs_image_processor
def test_image_models_come_with_their_processor(tmp_path: Path) -> None:
    build("vit").save_pretrained(tmp_path)
    tf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    found = load_model(str(tmp_path))
    assert found.modality == "image"
    assert type(found.tokenizer).__name__.startswith("ViTImageProcessor")
    assert found.max_positions == 17


@needs_image_processor
def test_of_a_two_tower_model_one_tower_is_chosen(tmp_path: Path) -> None:
    config = tf.CLIPConfig(
        text_config=build("clip_text").config.to_dict(), vision_config=build("clip_vision").config.to_dict()
    )
    torch.manual_seed(0)
    saved(tf.CLIPModel(config), tmp_path)
    tf.CLIPImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), modality="text").class_name == "CLIPTextModel"
    assert load_model(str(tmp_path), modality="image").class_name == "CLIPVisionModel"
    with pytest.raises(ModelError, match="text and an image tower"):
        load_model(str(tmp_path))


def test_a_model_in_memory_is_wrapped_with_its_base_model_and_hash() -> None:
    torch.manual_seed(0)
    headed = tf.LlamaForCausalLM(build("llama").config)
    found = wrap_model(headed, tokenizer())
    assert found.model is headed.model
    assert (found.class_name, found.model_id) == ("LlamaModel", "LlamaForCausalLM")
    assert found.weights_sha256 == wrap_model(headed, tokenizer()).weights_sha256
    with torch.no_grad():
        headed.model.norm.weight[0] += 1
    assert found.weights_sha256 != wrap_model(headed, tokenizer()).weights_sha256


def test_what_cannot_be_wrapped_says_so() -> None:
    with pytest.raises(TypeError, match="PreTrainedModel"):
        wrap_model(torch.nn.Linear(2, 2), tokenizer())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="reads image"):
        wrap_model(build("vit"), tokenizer())
    with pytest.raises(ModelError, match="input_features"):
        wrap_model(build("whisper"), tokenizer())


def test_a_tokenizer_that_is_not_fast_is_refused() -> None:
    class SlowTokenizer:
        is_fast = False  # what transformers' pure Python tokenizers say

    with pytest.raises(ModelError, match="not a fast tokenizer"):
        wrap_model(build("bert"), SlowTokenizer())


@pytest.mark.parametrize(
    "model_id", ["./nowhere", "/no/such/folder", "a b", "owner/name/more", "~/no-such-folder-here"]
)
def test_a_path_that_does_not_exist_is_one_sentence(model_id: str) -> None:
    with pytest.raises(ModelError, match="there is no folder") as caught:
        load_model(model_id)
    one_line(caught)


def test_a_hub_id_offline_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set") as caught:
        load_model("nobody/no-such-model")
    assert time.monotonic() - start < 5
    one_line(caught)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Unreachable:
        def model_info(self, model_id: str, revision: str | None, timeout: float) -> Any:
            asked.append(model_id)
            assert timeout <= 10
            raise ConnectionError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(folders, "HfApi", Unreachable)
    with pytest.raises(ModelError, match=r"cannot be reached \(no route to host\)") as caught:
        load_model("nobody/no-such-model")
    assert asked == ["nobody/no-such-model"]
    one_line(caught)


class Hub:
    """A hub with one model, of the files ``names``."""

    names: tuple[str, ...] = ()

    def model_info(self, model_id: str, revision: str | None, timeout: float) -> Any:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.names])


def test_a_hub_model_of_pickles_is_refused_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "names", ("config.json", "pytorch_model.bin"))
    monkeypatch.setattr(folders, "HfApi", Hub)
    monkeypatch.setattr(folders, "snapshot_download", lambda *args, **kwargs: pytest.fail("downloaded"))
    with pytest.raises(ModelError, match=r"only as pytorch_model\.bin"):
        load_model("owner/name")


def test_a_hub_model_is_fetched_without_code_and_remembers_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = saved(build("bert"), tmp_path / "0123abc")
    asked: dict[str, Any] = {}

    def download(model_id: str, **kwargs: Any) -> str:
        asked.update(kwargs)
        return str(commit)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "names", ("config.json", "model.safetensors"))
    monkeypatch.setattr(folders, "HfApi", Hub)
    monkeypatch.setattr(folders, "snapshot_download", download)
    found = load_model("owner/name", revision="main")
    assert (found.model_id, found.revision) == ("owner/name", "0123abc")
    assert asked["revision"] == "main"
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked["allow_patterns"])


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        load_model(str(tmp_path))
    one_line(caught)


@pytest.mark.parametrize("text", ["{", "[]", "", '{"model_type": ' + "[" * 100_000, "\x00"])
def test_a_broken_config_is_one_sentence(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        load_model(str(folder))
    one_line(caught)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "no-such-type"},
        {"model_type": None},
        {"hidden_size": -1},
        {"hidden_size": "large"},
        {"hidden_size": 64},
        {"num_attention_heads": 5},
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**15},
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_one_sentence(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    one_line(caught)


def test_pickled_weights_are_refused_unread(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as pytorch_model\.bin, which can run code"):
        load_model(str(folder))


def test_damaged_weights_are_one_sentence(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model(str(folder))
    one_line(caught)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "absent.safetensors", 7])
def test_an_index_may_only_name_files_of_its_folder(folder: Path, name: Any) -> None:
    (folder / "model.safetensors").rename(folder.parent / "stolen.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"weight_map|lacks absent"):
        load_model(str(folder))


def test_missing_weights_are_refused_instead_of_drawn_at_random(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"lacks \d+ weights of BertModel, which would be random"):
        load_model(str(folder))


def test_a_model_that_brings_its_own_code_is_not_run(folder: Path) -> None:
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelError, match="trust_remote_code") as caught:
        load_model(str(folder))
    one_line(caught)


def test_a_config_cannot_ask_for_a_kernel_from_the_hub(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="evil/kernel", _attn_implementation="evil/kernel")
    assert load_model(str(folder)).model.config._attn_implementation == "sdpa"


def test_an_adapter_folder_says_what_to_do(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="as --adapter"):
        load_model(str(folder))


def test_a_folder_without_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    build("bert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing") as caught:
        load_model(str(tmp_path))
    one_line(caught)
