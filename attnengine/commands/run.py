"""``attnengine run``: a model over a corpus."""

from __future__ import annotations

from typing import Annotated

import typer

from attnengine.commands.embed import embed_or_say
from attnengine.commands.shared import Model, Output, Quiet, dtype_for, interruptible

Corpus = Annotated[
    str,
    typer.Argument(
        help="A file (text, .jsonl, .parquet, .csv, WebDataset .tar; also .gz, .zst), a folder of them or of images, a "
        "quoted pattern 'data/*.jsonl', hf:NAME[:CONFIG][@SPLIT] for a hub data set, or - for stdin."
    ),
]


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
    sample_by: Annotated[
        str | None,
        typer.Option(
            help="Keep as many tokens again, from segments that hold a token of this class (punctuation, or one of "
            "--token-class); types and examples go on speaking of the plain sample."
        ),
    ] = None,
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
        sample_by=sample_by, token_class=parse_classes(token_class),
    )  # fmt: skip
    if embed_too and not sample:
        raise ValueError("--embed lays out sampled queries and keys: it needs a --sample above 0")
    share = parse_share(shards)
    reporter = Reporter(quiet=quiet)
    options = SourceOptions(documents, text_column, label_column, longest_line, pair_column)
    found = read_corpus(corpus, options)
    where = choose_device(device)
    reporter.say(f"loading {model}")
    load = partial(load_model, model, revision=revision, dtype=dtype_for(dtype, where), adapter=adapter,
                   trust_remote_code=trust_remote_code)  # fmt: skip
    loaded = load(device=where)
    crewing = Crewing(workers or int(ray is not None), ray, share, load)
    made = interruptible(
        lambda: run_documents(
            loaded, found, output, settings, device=where, source=corpus, reporter=reporter, crewing=crewing,
            resume=resume, overwrite=overwrite, dry_run=dry_run,
        ),
        output,
    )  # fmt: skip
    if made is not None and made.manifest["status"] == "complete":
        if embed_too:
            embed_or_say(output, EmbedSettings(), reporter)
        reporter.say(f"done: {output} · look at it with `attnengine explore {output}`")
