"""From what a user types to a folder with weights that are safe to read: local folder or hub id.

Everything is checked before transformers sees it: no pickle, no file outside the folder, no more layers than the
weights can fill. A hub id is asked for once, with a short timeout, so that a machine without network gets its answer
in seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError, safe_open

from attnengine.errors import ModelError

HUB_TIMEOUT = 10.0  # seconds, for the one question whether the model exists
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FILES = ["*.json", "*.jinja", "*.model", "*.txt", "model*.safetensors", "adapter_model.safetensors"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")


def find_folder(model_id: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of ``model_id`` and its commit on the hub (None for a local folder).

    Raises ModelError if there is no such folder, or the hub does not have, give or reach it.
    """
    path = Path(model_id).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        raise ModelError(f"{model_id} is a file; expected a model folder (with config.json) or a hub id")
    if not HUB_ID.fullmatch(model_id):
        raise ModelError(f"there is no folder {model_id}, and it is no hub id (owner/name) either")
    folder = _from_hub(model_id, revision, trust_remote_code)
    return folder, folder.name


def _from_hub(model_id: str, revision: str | None, trust_remote_code: bool) -> Path:
    files = [*FILES, "*.py"] if trust_remote_code else FILES

    def fetch(local: bool) -> Path:
        kept = snapshot_download(
            model_id, revision=revision, allow_patterns=files, ignore_patterns=["*/*"], local_files_only=local
        )
        return Path(kept)

    if constants.HF_HUB_OFFLINE:
        return _cached(fetch, model_id, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(model_id, revision=revision, timeout=HUB_TIMEOUT)
    except GatedRepoError as error:
        raise ModelError(f"{model_id} is gated: accept its terms on the hub, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{model_id} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder {model_id}, and the hub has no such model (or it is private: `hf auth login`)"
        ) from error
    except Exception as error:  # which HTTP library huggingface_hub uses has changed twice; all mean "not reached"
        return _cached(fetch, model_id, f"the hub cannot be reached ({_first_line(error)})")
    _refuse_pickle(model_id, [sibling.rfilename for sibling in info.siblings or []])
    try:
        return fetch(local=False)
    except Exception as error:
        raise ModelError(f"downloading {model_id} from the hub failed: {_first_line(error)}") from error


def _cached(fetch: Callable[[bool], Path], model_id: str, why: str) -> Path:
    try:
        return fetch(True)
    except Exception as error:
        raise ModelError(
            f"there is no folder {model_id}; as a hub id it is not in the local cache, and {why}: "
            "download it first, or give a folder"
        ) from error


def _refuse_pickle(where: str, names: list[str]) -> None:
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise ModelError(
            f"{where} has its weights only as {pickles[0]}, which can run code when read; expected model.safetensors: "
            "convert it (model.save_pretrained writes safetensors) or use another revision"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file ``path``; ModelError if it cannot be read or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} has no {path.name}: expected a folder as save_pretrained writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}; expected a JSON object")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, sorted by name; ModelError unless all are there and readable."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        weight_map = read_json(index).get("weight_map")
        values = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not values or not all(isinstance(name, str) and Path(name).name == name for name in values):
            raise ModelError(f"{index} has no valid weight_map: expected tensor names with file names of this folder")
        names = sorted(set(values))
    else:
        _refuse_pickle(str(folder), [path.name for path in folder.iterdir()])
        raise ModelError(f"{folder} has no weights: expected model.safetensors")
    for name in names:
        if not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which its index lists: download or copy it again")
    return [folder / name for name in names]


def count_tensors(files: list[Path]) -> int:
    """How many tensors the weights hold; ModelError if a file is damaged."""
    total = 0
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                total += len(file.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged ({_first_line(error)}): download or copy it again") from error
    return total


def hash_files(files: list[Path]) -> str:
    """SHA-256 of the file; of several files, that of their ``sha256sum`` listing."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(files) == 1:
        return digests[0]
    listing = "".join(f"{digest}  {path.name}\n" for digest, path in zip(digests, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
