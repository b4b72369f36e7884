"""The model that a run was made with, loaded again on this machine, and known to be the same by its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnengine.bundled import SHA256, bundled_model
from attnengine.errors import AttnEngineError, ModelError
from attnengine.model.load import DTYPES, LoadedModel, load_model
from attnengine.model.state import hash_state

if TYPE_CHECKING:
    from attnengine.opened import Run

WITHOUT = "Everything that the run holds can be looked at without it"


def load_model_of(run: Run, device: str = "cpu") -> LoadedModel:
    """The model of a run: a bundled one, its folder, or its hub id and revision, with its adapter, in its precision.

    The manifest may come from a stranger: the model is data (safetensors, no code of its folder), and its weights are
    compared with the hash the run was made with. Raises ModelError where it cannot be had, or is another one now.
    """
    known = run.manifest.get("model")
    known = known if isinstance(known, dict) else {}
    name, expected = _text(known, "id"), _text(known, "weights_sha256")
    if name is None or expected is None:
        raise ModelError(f"{run.path} does not say which model it was made with. {WITHOUT}")
    try:
        loaded = load_model(
            _bundled(expected) or name,
            revision=_text(known, "revision"),
            device=device,
            dtype=_dtype(known),
            modality=_text(known, "modality"),
            adapter=_text(known, "adapter"),
        )
    except AttnEngineError as error:
        raise ModelError(f"the run's model cannot be loaded here: {error}. {WITHOUT}") from error
    if expected not in (loaded.weights_sha256, hash_state(loaded.model)):  # the latter for a run of one in memory
        raise ModelError(
            f"{name} holds other weights now (SHA-256 {loaded.weights_sha256[:12]}…, the run was made with "
            f"{expected[:12]}…): put the old ones back, or make the run again. {WITHOUT}"
        )
    return loaded


def _text(known: dict[str, Any], name: str) -> str | None:
    value = known.get(name)
    return value if isinstance(value, str) and value else None


def _dtype(known: dict[str, Any]) -> str | None:
    """The precision of the run, as transformers names it; None, that of the weights, where it names none of ours."""
    names = {str(dtype).removeprefix("torch.") for dtype in DTYPES.values()}
    return known["dtype"] if known.get("dtype") in names else None


def _bundled(sha256: str) -> str | None:
    """The folder of the bundled model with these weights, whatever a run calls it."""
    for name, files in SHA256.items():
        if files["model.safetensors"] == sha256:
            return str(bundled_model(name))
    return None
