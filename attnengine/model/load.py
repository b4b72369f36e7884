"""A model ready to be captured: the base model without vocabulary head, its tokenizer or image processor, its facts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from attnengine.errors import ModelError
from attnengine.model.adapter import WEIGHTS, adapter_class, merge_adapter
from attnengine.model.folders import count_tensors, find_folder, hash_files, read_json, weight_files
from attnengine.model.positions import max_positions
from attnengine.model.state import UNUSED, hash_state, require_whole

T = TypeVar("T")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
_MODALITIES = {"input_ids": "text", "pixel_values": "image"}


@dataclass(frozen=True)
class LoadedModel:
    """A model with what a run has to know and record about it."""

    model: PreTrainedModel
    tokenizer: Any  # a fast tokenizer, or the image processor of a model of images
    model_id: str  # as the user gave it
    revision: str | None  # commit on the hub; None for local folders and models in memory
    class_name: str
    config: dict[str, Any]  # the configuration's plain values, for the manifest
    weights_sha256: str
    max_positions: int | None  # None: nothing limits it
    is_encoder_decoder: bool
    modality: str  # "text" or "image"
    decoder_start_token_id: int | None  # None for models with one stack
    adapter: str | None = None  # the PEFT adapter that was merged in, as the user gave it

    @property
    def tokenizer_inputs(self) -> frozenset[str]:
        """What the tokenizer gives and the model takes: input_ids, token_type_ids where it knows token types, …"""
        return frozenset(inspect.signature(self.model.forward).parameters) & set(self.tokenizer.model_input_names)

    def as_dict(self) -> dict[str, Any]:
        """Everything but model and tokenizer, as JSON takes it."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "tokenizer")}


def load_model(
    model_id: str,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    modality: str | None = None,
    adapter: str | None = None,
) -> LoadedModel:
    """Load a folder or hub id; ``dtype`` is a torch dtype or fp32, bf16, fp16, fp64; None keeps that of the weights.

    ``modality`` ("text" or "image") chooses the tower of a model that has two, such as CLIP. ``adapter`` is a PEFT
    adapter (folder or hub id), merged into the weights. ``weights_sha256`` is the file's own SHA-256, or of several
    files (an adapter's among them) that of their ``sha256sum`` listing. Raises ModelError, one sentence
    on what was expected, what came and what to do; ValueError for a dtype or modality that does not exist.
    """
    dtype = _dtype(dtype)
    if modality not in (None, *_MODALITIES.values()):
        raise ValueError(f"modality is 'text', 'image' or None, got {modality!r}")
    folder, commit = find_folder(model_id, revision, trust_remote_code)
    files = _check_folder(folder, trust_remote_code)
    extra = find_folder(adapter, None, trust_remote_code=False)[0] if adapter is not None else None
    auto = "AutoModel" if extra is None else adapter_class(extra)
    with _quiet():
        config = _config(folder, count_tensors(files), trust_remote_code)
        model = _model(folder, config, dtype, trust_remote_code, getattr(transformers, auto))
        if extra is not None:
            model = merge_adapter(model, extra)
            files.append(extra / WEIGHTS)
        tower = _tower(model, modality)
        kind = _modality(tower)
        reader = _reader(folder, kind, trust_remote_code)
        _attempt(f"moving {model_id} to {device}", lambda: tower.to(device))  # type: ignore[arg-type]
    loaded = _loaded(tower, reader, model_id, commit, hash_files(files), _start_token(tower, folder))
    return replace(loaded, adapter=adapter)


def wrap_model(model: PreTrainedModel, reader: Any) -> LoadedModel:
    """A model in memory with its tokenizer or image processor; a headed model gives its base model, if it has one.

    Quantised weights and those on several devices (``device_map``) are welcome. ``weights_sha256`` is
    :func:`.state.hash_state`. The model is neither copied nor changed.
    Raises TypeError for something that is no transformers model, ModelError for what cannot be run.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"expected a transformers PreTrainedModel, got {type(model).__name__} (PEFT: pass model.get_base_model())"
        )
    require_whole(model)
    wants = "text" if hasattr(reader, "is_fast") or hasattr(reader, "encode") else "image"
    base = model.base_model
    assert isinstance(base, PreTrainedModel)
    tower = _tower(base, wants)
    kind = _modality(tower)
    if kind != wants:
        raise ModelError(f"{type(tower).__name__} reads {kind}, but a {type(reader).__name__} was given with it")
    if kind == "text":
        _require_fast(reader)
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return _loaded(tower, reader, name, None, hash_state(tower), _start_token(tower, None))


def _loaded(
    model: PreTrainedModel, reader: Any, name: str, commit: str | None, digest: str, start: int | None
) -> LoadedModel:
    plain = (str, int, float, bool, type(None))
    return LoadedModel(
        model=model,
        tokenizer=reader,
        model_id=name,
        revision=commit,
        class_name=type(model).__name__,
        config={key: value for key, value in sorted(model.config.to_dict().items()) if isinstance(value, plain)},
        weights_sha256=digest,
        max_positions=max_positions(model),
        is_encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
        modality=_modality(model),
        decoder_start_token_id=start,
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    named = DTYPES.get(dtype) or getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)} or a floating torch dtype, got {dtype!r}")
    return named


def _check_folder(folder: Path, trust_remote_code: bool) -> list[Path]:
    """The weight files, once nothing in the folder speaks against reading it."""
    config = read_json(folder / "config.json")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds a PEFT adapter: give its base model as MODEL and this folder as --adapter")
    kind = config.get("model_type")
    if "auto_map" in config and kind not in CONFIG_MAPPING and not trust_remote_code:
        raise ModelError(
            f"{folder}: transformers does not know model type {kind!r}, and the code the folder brings for it is not "
            "run without trust_remote_code"
        )
    return weight_files(folder)


def _config(folder: Path, n_tensors: int, trust_remote_code: bool) -> Any:
    config = _attempt(
        f"reading {folder / 'config.json'}",
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True),
    )
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > n_tensors:
        raise ModelError(f"{folder}: config.json asks for {layers} layers, its weights hold {n_tensors} tensors")
    config._attn_implementation = None  # a folder may name a kernel repository to be fetched and run: never
    return config


def _model(folder: Path, config: Any, dtype: torch.dtype | None, trust_remote_code: bool, auto: Any) -> PreTrainedModel:
    """The model as the class ``auto`` makes it; a head that the weights lack is random and never runs."""
    model, report = _attempt(
        f"loading the weights of {folder}",
        lambda: auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        ),
    )
    own = {f"{model.base_model_prefix}.{name}" for name in model.base_model.state_dict()}
    needed = report["missing_keys"] if model.base_model is model else own & set(report["missing_keys"])
    missing = sorted(key for key in needed if not any(part in key for part in UNUSED))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, which would be random: {missing[0]}, …"
        )
    return model


def _tower(model: PreTrainedModel, modality: str | None) -> PreTrainedModel:
    """The one stack to run of a model with a text and an image tower; any other model as it is."""
    towers = {"text": getattr(model, "text_model", None), "image": getattr(model, "vision_model", None)}
    if not all(isinstance(tower, PreTrainedModel) for tower in towers.values()):
        return model
    if modality is None:
        raise ModelError(f"{type(model).__name__} has a text and an image tower: choose modality='text' or 'image'")
    return towers[modality]  # type: ignore[return-value]


def _modality(model: PreTrainedModel) -> str:
    kind = _MODALITIES.get(model.main_input_name)
    if kind is None:
        raise ModelError(f"{type(model).__name__} reads {model.main_input_name}; expected a model of text or images")
    return kind


def _reader(folder: Path, kind: str, trust_remote_code: bool) -> Any:
    reader_class = AutoTokenizer if kind == "text" else AutoImageProcessor
    what = "tokenizer" if kind == "text" else "image processor"
    reader = _attempt(
        f"loading the {what} of {folder}",
        lambda: reader_class.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True),
    )
    if kind == "text":
        _require_fast(reader)
    return reader


def _require_fast(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so it cannot say where in the text a token comes "
            "from: expected a tokenizer.json beside the model"
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # transformers makes an empty one up without files
        raise ModelError(f"the {type(tokenizer).__name__} of this model knows no words: its tokenizer.json is missing")


def _start_token(model: PreTrainedModel, folder: Path | None) -> int | None:
    """What a decoder's input starts with: as configured, as its generation is, else bos, else pad (T5's habit)."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return None
    generation = folder / "generation_config.json" if folder else None
    stored = read_json(generation) if generation and generation.is_file() else {}
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    sources = [getattr(model.config, names[0], None), stored.get(names[0])]
    sources += [getattr(model.config, name, None) for name in names[1:]]
    return next((value for value in sources if isinstance(value, int)), None)


def _attempt(what: str, act: Callable[[], T]) -> T:
    """What ``act`` returns; whatever transformers raises over a broken or hostile folder, as one ModelError."""
    try:
        return act()
    except ModelError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{what} failed: {type(error).__name__}: {said}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, notices or warnings from transformers inside; its settings are put back."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
