"""The command line. Every heavy import waits inside its command: ``attnengine --help`` answers at once."""

from __future__ import annotations

import errno
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from attnengine.commands.embed import embed, embed_or_say
from attnengine.commands.run import run
from attnengine.commands.shared import Model, Output, Quiet, dtype_for, fail, interruptible
from attnengine.errors import AttnEngineError

BENCHMARKS = ("run", "kernels", "parts", "verify", "gpu", "embed", "scale", "explorer")
# Bundled models that read text, each with its name in a run.
DEMO_MODELS = {"causal": "attnengine/causal", "twin": "attnengine/twin", "minilm": "all-MiniLM-L6-v2"}

app = typer.Typer(
    help="What every attention head of a transformer does, how its queries and keys do it, and where, over a corpus.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        fail("stopped before the end")
    except AttnEngineError as error:
        fail(str(error))
    except (ValueError, TypeError) as error:
        if not _is_argument_mistake(error):
            raise
        fail(str(error))
    except OSError as error:
        fail(_disk_error(error))


def _disk_error(error: OSError) -> str:
    """What to do about a full or forbidden disk; any other OSError is a bug of ours and keeps its traceback."""
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.strerror}{where}. Finished shards are kept: make room and go on with --resume"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG):
        return f"{error.strerror}{where}; give a folder that can be written"
    raise error


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_argument_mistake(error: Exception) -> bool:
    """Whether one of our own checks raised it: a ValueError from a library is a bug of ours and keeps its traceback."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("attnengine.")


app.command()(run)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    partial: Annotated[bool, typer.Option("--partial", help="Tables of what is there; the run goes on.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Finish without the shards that failed or are missing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make the tables of a run from its finished shards; needs neither model nor corpus, and may run while others work.

    The command that runs the last shard does this by itself.
    """
    from attnengine.run.merge import merge
    from attnengine.run.progress import Reporter

    merge(run, Reporter(quiet=quiet), partial=partial, allow_missing=allow_missing)


@app.command()
def info(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its checksum.")] = False,
) -> None:
    """Say what a run is: model, corpus, settings, checks, and what is in its folder."""
    from attnengine.opened import open_run
    from attnengine.run.describe import describe_run
    from attnengine.store import read_manifest

    manifest = read_manifest(run)
    if verify and (wrong := open_run(run).verify()):
        fail(f"{run} is damaged: {'; '.join(wrong)}")
    if as_json:
        sys.stdout.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    else:
        describe_run(run, manifest)


app.command()(embed)


@app.command()
def explore(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 5006,
    host: Annotated[str, typer.Option(help="Address; others than this machine's need a token.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(help="That token [a random one].", envvar="ATTNENGINE_TOKEN")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the default browser.")] = True,
) -> None:
    """Open the explorer on runs, in the browser, until Ctrl-C."""
    from attnengine_explorer.server import serve

    serve(runs, port=port, host=host, token=token, open_browser=browser, on_ready=_say_url)


def _say_url(url: str) -> None:
    sys.stderr.write(f"explorer: {url}  (Ctrl-C stops it)\n")
    sys.stderr.flush()


@app.command()
def demo(
    output: Output = Path("demo-run"),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Open the explorer at the end.")] = True,
    port: Annotated[int, typer.Option(help="Port of the explorer; 0: any free one.", min=0, max=65535)] = 5006,
    model: Annotated[
        str,
        typer.Option(help="causal (a language model of ours), twin (fine-tuned from it), minilm (a BERT, its extra)."),
    ] = "causal",
    clouds: Annotated[bool, typer.Option("--embed/--no-embed", help="Lay out the joint clouds too.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run again even if the demo run is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run a bundled model over the bundled text (Python's documentation), embed it, open the explorer. No download."""
    from attnengine.bundled import bundled_documents, bundled_model
    from attnengine.corpus.sources import Document
    from attnengine.embedding.settings import EmbedSettings
    from attnengine.front import run_documents
    from attnengine.model.load import load_model
    from attnengine.run.progress import Reporter
    from attnengine.run.settings import RunSettings

    if model not in DEMO_MODELS:
        fail(f"--model must be one of {', '.join(DEMO_MODELS)}; got {model!r}")
    reporter = Reporter(quiet=quiet)
    reporter.say(f"checking and loading the bundled model, {DEMO_MODELS[model]}")
    loaded = replace(load_model(str(bundled_model(model)), device="cpu"), model_id=DEMO_MODELS[model])
    documents = [Document(name, 0, len(text.encode()), text) for name, text in bundled_documents()]
    interruptible(
        lambda: run_documents(
            loaded, documents, output, RunSettings(), device="cpu", source="pydoc_data.topics", reporter=reporter,
            resume=not overwrite, overwrite=overwrite,
        ),
        output,
    )  # fmt: skip
    if clouds:
        embed_or_say(output, EmbedSettings(), reporter, overwrite=overwrite)
    if serve:
        explore([output], port=port, host="127.0.0.1", token=None, browser=True)


@app.command()
def probe(
    model: Model,
    length: Annotated[int, typer.Option(help="Random tokens of one copy.", min=2)] = 50,
    sequences: Annotated[int, typer.Option(help="Sequences to average over.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the tokens.")] = 0,
    bos: Annotated[str, typer.Option(help="auto: a BOS token in front where the tokenizer has one; never.")] = "auto",
    top: Annotated[int, typer.Option(help="Heads to show of each score.", min=1)] = 10,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write .parquet or .csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All heads as JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored; bf16 on CUDA), fp32, bf16, fp16 or fp64.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder run its own Python code.")] = False,
) -> None:
    """Score MODEL's heads on random tokens repeated: induction, previous token, duplicate token. No corpus needed."""
    from dataclasses import asdict

    from attnengine import probe_report
    from attnengine.model.load import load_model
    from attnengine.probe import ProbeSettings
    from attnengine.probe import probe as measure
    from attnengine.run.prepare import choose_device

    settings = ProbeSettings(length, sequences, seed, bos)
    if output is not None:
        probe_report.check_ending(output)
    where = choose_device(device)
    loaded = load_model(
        model, revision=revision, device=where, dtype=dtype_for(dtype, where), trust_remote_code=trust_remote_code
    )
    table = measure(loaded, settings, where)
    if output is not None:
        probe_report.write(table, output)
    if as_json:
        sys.stdout.write(probe_report.as_json(table, {"model": model, "settings": asdict(settings)}) + "\n")
    else:
        probe_report.show(table, model, top)


# Options after WHAT are the benchmark's own, --help too.
@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def bench(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="run: whole forwards; kernels: each pass; parts: the CPU path's; verify: checks; gpu: all; "
            "embed: clouds; scale: whole runs; explorer: what a person waits for"
        ),
    ],
) -> None:
    """Measure what the statistics cost, against the strongest rivals, and write a result file.

    What follows WHAT goes to the benchmark: `attnengine bench run --help`.
    """
    import runpy

    import attnengine

    root = Path(attnengine.__file__).resolve().parent.parent
    if not (root / "benchmarks").is_dir():
        fail("benchmarks live in the repository, not in the installed package: clone it and run from the checkout")
    if what not in BENCHMARKS:
        fail(f"no benchmark {what!r}; expected one of {', '.join(BENCHMARKS)}")
    sys.argv = [f"attnengine bench {what}", *context.args]
    sys.path.insert(0, str(root))
    runpy.run_module(f"benchmarks.{what}", run_name="__main__")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say what is installed, which device and which kernels will be used, and what to do about what is missing."""
    from attnengine.doctor import render, report

    found = report()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        render(found)


if __name__ == "__main__":
    main()
