"""``attnengine embed``: joint clouds of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnengine.commands.shared import Quiet, fail


def embed(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    method: Annotated[str, typer.Option(help="umap (ours), umap-learn, t-sne or pca.")] = "umap",
    gauge: Annotated[
        str,
        typer.Option(
            help="auto, attentionviz (its paper's recipe), attentionviz-uncentred, norm-matched, correlated, balanced."
        ),
    ] = "auto",
    dims: Annotated[int, typer.Option(help="Dimensions of the picture, 2 or 3.")] = 2,
    neighbours: Annotated[int, typer.Option(help="Nearest neighbours, the point itself included.")] = 15,
    epochs: Annotated[int, typer.Option(help="Epochs of the layout.")] = 200,
    min_dist: Annotated[float, typer.Option(help="How close points may lie.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the layouts.")] = 0,
    clusters: Annotated[bool, typer.Option("--clusters/--no-clusters", help="Find and name clusters.")] = True,
    layers: Annotated[str | None, typer.Option(help="Only these layers: 0,3,5.")] = None,
    heads: Annotated[str | None, typer.Option(help="Only these heads of each layer.")] = None,
    like: Annotated[Path | None, typer.Option(help="Start from, and turn onto, the embedding of this run.")] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0: one a core.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto. The pictures are the same.")] = "cpu",
    search: Annotated[
        str, typer.Option(help="Neighbours: auto (by search graph above 20,000 points) or exact.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an embedding of other settings.")] = False,
    quiet: Quiet = False,
) -> None:
    """Lay out the sampled queries and keys of every head of RUN as joint clouds, and say how far each can be trusted.

    Stopped anywhere, the same command goes on at the next head.
    """
    from attnengine.embedding.settings import EmbedSettings
    from attnengine.run.progress import Reporter

    settings = EmbedSettings(
        method, gauge, dims, neighbours, search=search, epochs=epochs, min_dist=min_dist, seed=seed, clusters=clusters
    )
    reporter = Reporter(quiet=quiet)
    embed_or_say(
        run, settings, reporter, layers=_numbers("--layers", layers), heads=_numbers("--heads", heads), like=like,
        jobs=jobs, device=device, overwrite=overwrite,
    )  # fmt: skip
    reporter.say(f"done: {run} · look at it with `attnengine explore {run}`")


def embed_or_say(run: Path, settings: Any, reporter: Any, **options: Any) -> None:
    """Embed a run; an interruption says what is kept and how to go on."""
    from attnengine.embedding.pipeline import embed_run

    try:
        embed_run(run, settings, reporter=reporter, **options)
    except KeyboardInterrupt:
        fail(f"stopped; the heads that are done are kept: `attnengine embed {run}` with the same options goes on")


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{option} must be numbers separated by commas, as in 0,3,5; got {text!r}")
    return [int(word) for word in words]
