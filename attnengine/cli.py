"""The command line. Every heavy import waits inside its command: ``attnengine --help`` answers at once."""

from __future__ import annotations

import errno
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from attnengine.errors import AttnEngineError

BENCHMARKS = ("run", "kernels", "parts", "verify", "gpu", "embed")

app = typer.Typer(
    help="What every attention head of a transformer does, how its queries and keys do it, and where, over a corpus.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[str, typer.Argument(help="A local model folder (safetensors) or a hub id.")]
Corpus = Annotated[
    str,
    typer.Argument(
        help="A file (text, .jsonl, .parquet, .csv, WebDataset .tar; also .gz, .zst), a folder of them or of images, a "
        "quoted pattern 'data/*.jsonl', hf:NAME[:CONFIG][@SPLIT] for a hub data set, or - for stdin."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The run directory to make.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        _fail("stopped before the end")
    except AttnEngineError as error:
        _fail(str(error))
    except (ValueError, TypeError) as error:
        if not _is_argument_mistake(error):
            raise
        _fail(str(error))
    except OSError as error:
        _fail(_disk_error(error))


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


def _fail(message: str) -> None:
    sys.stderr.write(f"attnengine: {' '.join(message.split())}\n")
    sys.exit(2)


@app.command()
def run(
    model: Model,
    corpus: Corpus,
    output: Output,
    stats: Annotated[str, typer.Option(help="all; core: only entropy, masses, distance, neuron means.")] = "all",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored; bf16 on CUDA), fp32, bf16, fp16 or fp64.")] = "auto",
    window: Annotated[int | None, typer.Option(help="Tokens a window [min(model positions, 1024)].", min=1)] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from window to window [no overlap].", min=1)] = None,
    bos: Annotated[str, typer.Option(help="auto: special tokens as the tokenizer adds them; always; never.")] = "auto",
    documents: Annotated[str, typer.Option(help="Split text files: auto, file, blank (lines) or line.")] = "auto",
    text_column: Annotated[
        str, typer.Option(help="The column (jsonl field, tar member's ending) of the text or image.")
    ] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="A second column of text: each row is a pair, one window A [SEP] B.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="A column to keep as the document's label.")] = None,
    token_class: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=REGEX: adds the column NAME_mass, attention to tokens whose whole text matches, as in "
            "digit='[0-9]+'. Repeatable."
        ),
    ] = None,
    longest_line: Annotated[int, typer.Option(help="Refuse lines longer than this; 0: no limit.", min=0)] = 1_000_000,
    max_tokens: Annotated[int | None, typer.Option(help="Stop adding windows after this many tokens.", min=1)] = None,
    sample: Annotated[int, typer.Option(help="Tokens whose queries, keys and values are kept.", min=0)] = 5000,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Padded tokens a batch [4096; on CUDA what free memory holds].", min=1)
    ] = None,
    shard_tokens: Annotated[int, typer.Option(help="Tokens a shard: the most that a kill can lose.", min=1)] = 32768,
    threads: Annotated[int | None, typer.Option(help="CPU threads a process [cores / workers].", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Processes to share the shards; 0: this one.", min=0)] = 0,
    ray: Annotated[str | None, typer.Option(help="Workers on this Ray cluster: an address, auto, or local.")] = None,
    shards: Annotated[
        str, typer.Option(help="i/n: only every n-th shard from the i-th on, i from 0; for arrays of n processes.")
    ] = "0/1",
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    layers: Annotated[str | None, typer.Option(help="Only the heads of these layers: 0,2-4 [all].")] = None,
    heads: Annotated[str | None, typer.Option(help="Only these heads, beside --layers: L5H1,L0H3 [all].")] = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Keep sampled tokens' text, or offsets only.")] = True,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter (folder or hub id) to merge in.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the model folder run its own Python code.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
    embed_too: Annotated[bool, typer.Option("--embed", help="Then lay out every head, as `attnengine embed`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run would be, and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run MODEL over CORPUS and write head statistics, profiles, patterns and sampled q, k, v to a folder."""
    from functools import partial

    from attnengine.corpus.sources import SourceOptions, read_corpus
    from attnengine.corpus.token_classes import parse_classes
    from attnengine.embedding.settings import EmbedSettings
    from attnengine.front import run_documents
    from attnengine.model.load import load_model
    from attnengine.run.execute import Crewing, parse_share
    from attnengine.run.prepare import choose_device
    from attnengine.run.progress import Reporter
    from attnengine.run.settings import RunSettings

    settings = RunSettings(
        stats=stats, window=window, stride=stride, bos=bos, batch_tokens=batch_tokens, shard_tokens=shard_tokens,
        sample=sample, seed=seed, max_tokens=max_tokens, keep_text=text, threads=threads, layers=layers, heads=heads,
        token_class=parse_classes(token_class),
    )  # fmt: skip
    if embed_too and not sample:
        raise ValueError("--embed lays out sampled queries and keys: it needs a --sample above 0")
    share = parse_share(shards)
    reporter = Reporter(quiet=quiet)
    options = SourceOptions(documents, text_column, label_column, longest_line, pair_column)
    found = read_corpus(corpus, options)
    where = choose_device(device)
    reporter.say(f"loading {model}")
    load = partial(load_model, model, revision=revision, dtype=_dtype(dtype, where), adapter=adapter,
                   trust_remote_code=trust_remote_code)  # fmt: skip
    loaded = load(device=where)
    crewing = Crewing(workers or int(ray is not None), ray, share, load)
    made = _run(
        lambda: run_documents(
            loaded, found, output, settings, device=where, source=corpus, reporter=reporter, crewing=crewing,
            resume=resume, overwrite=overwrite, dry_run=dry_run,
        ),
        output,
    )  # fmt: skip
    if made is not None and made.manifest["status"] == "complete":
        if embed_too:
            _embed(output, EmbedSettings(), reporter)
        reporter.say(f"done: {output} · look at it with `attnengine explore {output}`")


def _run(work: Any, output: Path) -> Any:
    """Do the work; an interruption says what is kept and how to go on."""
    try:
        return work()
    except KeyboardInterrupt:
        done = len(list((output / "shards").glob("shard-*.safetensors"))) if output.is_dir() else 0
        if not (output / "manifest.json").exists():
            _fail("stopped before the run began; nothing was written")
        _fail(f"stopped; {done} finished shards are kept in {output}: go on with the same command and --resume")


def _dtype(name: str, device: str) -> Any:
    from attnengine.model.load import DTYPES

    if name == "auto":
        return DTYPES["bf16"] if device.startswith("cuda") else None
    if name not in DTYPES:
        raise ValueError(f"--dtype must be auto, {', '.join(DTYPES)}; got {name!r}")
    return DTYPES[name]


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
        _fail(f"{run} is damaged: {'; '.join(wrong)}")
    if as_json:
        sys.stdout.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    else:
        describe_run(run, manifest)


@app.command()
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
    _embed(
        run, settings, reporter, layers=_numbers("--layers", layers), heads=_numbers("--heads", heads), like=like,
        jobs=jobs, device=device, overwrite=overwrite,
    )  # fmt: skip
    reporter.say(f"done: {run} · look at it with `attnengine explore {run}`")


def _embed(run: Path, settings: Any, reporter: Any, **options: Any) -> None:
    """Embed a run; an interruption says what is kept and how to go on."""
    from attnengine.embedding.pipeline import embed_run

    try:
        embed_run(run, settings, reporter=reporter, **options)
    except KeyboardInterrupt:
        _fail(f"stopped; the heads that are done are kept: `attnengine embed {run}` with the same options goes on")


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{option} must be numbers separated by commas, as in 0,3,5; got {text!r}")
    return [int(word) for word in words]


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run again even if the demo run is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run the bundled model over the bundled text (Python's documentation) and open the explorer. No download."""
    from attnengine.bundled import bundled_documents, bundled_model
    from attnengine.corpus.sources import Document
    from attnengine.front import run_documents
    from attnengine.model.load import load_model
    from attnengine.run.progress import Reporter
    from attnengine.run.settings import RunSettings

    reporter = Reporter(quiet=quiet)
    reporter.say("checking and loading the bundled model, all-MiniLM-L6-v2")
    loaded = replace(load_model(str(bundled_model()), device="cpu"), model_id="all-MiniLM-L6-v2")
    documents = [Document(name, 0, len(text.encode()), text) for name, text in bundled_documents()]
    _run(
        lambda: run_documents(
            loaded, documents, output, RunSettings(), device="cpu", source="pydoc_data.topics", reporter=reporter,
            resume=not overwrite, overwrite=overwrite,
        ),
        output,
    )  # fmt: skip
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
        model, revision=revision, device=where, dtype=_dtype(dtype, where), trust_remote_code=trust_remote_code
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
            help="run: whole forwards; kernels: each pass; parts: the CPU path's; verify: checks; gpu: all; embed"
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
        _fail("benchmarks live in the repository, not in the installed package: clone it and run from the checkout")
    if what not in BENCHMARKS:
        _fail(f"no benchmark {what!r}; expected one of {', '.join(BENCHMARKS)}")
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
