"""What commands share: their common arguments, and how they end when something is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

Model = Annotated[str, typer.Argument(help="A local model folder (safetensors) or a hub id.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The run directory to make.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


def fail(message: str) -> NoReturn:
    """One line on stderr, and exit code 2."""
    sys.stderr.write(f"attnengine: {' '.join(message.split())}\n")
    sys.exit(2)


def interruptible(work: Any, output: Path) -> Any:
    """Do the work; an interruption says what is kept and how to go on."""
    try:
        return work()
    except KeyboardInterrupt:
        done = len(list((output / "shards").glob("shard-*.safetensors"))) if output.is_dir() else 0
        if not (output / "manifest.json").exists():
            fail("stopped before the run began; nothing was written")
        fail(f"stopped; {done} finished shards are kept in {output}: go on with the same command and --resume")


def dtype_for(name: str, device: str) -> Any:
    """The torch dtype of a ``--dtype``: auto is bf16 on CUDA, elsewhere (None) that of the weights."""
    from attnengine.model.load import DTYPES

    if name == "auto":
        return DTYPES["bf16"] if device.startswith("cuda") else None
    if name not in DTYPES:
        raise ValueError(f"--dtype must be auto, {', '.join(DTYPES)}; got {name!r}")
    return DTYPES[name]
