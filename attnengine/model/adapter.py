"""A PEFT adapter merged into its base model: attention then runs on the fine-tuned weights, at no cost a token.

An adapter's tensors are named after the class it was trained on (``base_model.model.model.layers…`` for a causal
language model), so the model is loaded with that head, merged, and only then stripped to its base. Every tensor of
the adapter has to find its place: one that does not would leave the base model as it is, without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from attnengine.errors import ModelError
from attnengine.model.folders import read_json

WEIGHTS = "adapter_model.safetensors"
#: PEFT's task types and the class that names the adapter's tensors.
CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
    None: "AutoModel",
}


def adapter_class(folder: Path) -> str:
    """The transformers class an adapter was trained on; ModelError unless the folder can be read and merged."""
    config = read_json(folder / "adapter_config.json")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; expected an adapter as PEFT's save_pretrained writes it")
    task = config.get("task_type")
    if task not in CLASSES:
        known = ", ".join(str(name) for name in CLASSES if name)
        raise ModelError(f"{folder}: task_type {task!r} of the adapter is not known; expected one of {known}")
    if config.get("is_prompt_learning") or "TUNING" in str(config.get("peft_type")):
        raise ModelError(
            f"{folder}: a {config.get('peft_type')} adapter adds tokens instead of changing weights, so it cannot be "
            "merged; expected LoRA or another adapter of weights"
        )
    return CLASSES[task]


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base model of ``model``, without head, with the adapter's weights merged in, in its own dtype.

    Raises ModelError if the ``peft`` package is missing, or the adapter does not fit the model tensor by tensor.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise ModelError("--adapter needs the package peft: pip install 'attnengine[peft]'") from error
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        placed = get_peft_model_state_dict(adapted)
        _check_placed(folder, placed)
        merged = adapted.merge_and_unload()
    except ModelError:
        raise
    except Exception as error:  # PEFT raises what its many methods raise over a config or weights that do not fit
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"merging the adapter {folder} failed: {type(error).__name__}: {said}") from error
    base = merged.base_model
    assert isinstance(base, PreTrainedModel)
    return base


def _check_placed(folder: Path, placed: dict[str, Any]) -> None:
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            stored = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged ({str(error).splitlines()[0]}): copy it again") from error
    astray, absent = sorted(stored - set(placed)), sorted(set(placed) - stored)
    if astray or absent:
        what = f"{len(astray)} of its tensors have no place in the model" if astray else f"it lacks {len(absent)}"
        raise ModelError(f"{folder} does not fit this base model: {what}, the first is {(astray or absent)[0]}")
