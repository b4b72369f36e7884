"""The peak of memory does not grow with the corpus: measured over whole runs of a tiny model."""

import os
import random
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from attnengine.bundled import bundled_model
from attnengine.opened import open_run

PEAK = """
import resource, sys
from attnengine.cli import main
sys.argv = ["attnengine", *sys.argv[1:]]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
TOKENS = tuple(int(n) for n in os.environ.get("ATTNENGINE_FLAT_TOKENS", "100000,1000000").split(","))
#: What a million tokens more may add: Python's numbers of windows and documents, a few hundred bytes a document.
BYTES_PER_TOKEN = 40


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """One layer of one head, 8 wide: the run is all planning, reading and adding up."""
    folder = tmp_path_factory.mktemp("smallest")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=256,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_model()).save_pretrained(folder)
    return folder


def peak_of_a_run(smallest, folder, tokens):
    """Peak resident bytes of `attnengine run` over ``tokens`` tokens of made-up text, in documents of 400 words."""
    chance, words = random.Random(0), ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "home", "."]
    corpus, run = folder / f"{tokens}.jsonl", folder / f"run-{tokens}"
    with corpus.open("w") as file:
        for _ in range(tokens // 400):
            file.write(f'{{"text": "{" ".join(chance.choices(words, k=400))}"}}\n')
    options = ["--threads", "1", "--shard-tokens", str(2**16), "-q", "--no-text"]
    command = [sys.executable, "-c", PEAK, "run", str(smallest), str(corpus), "-o", str(run), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert open_run(run).coverage["tokens"] == open_run(run).coverage["tokens_planned"] >= tokens
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.acceptance
def test_the_peak_of_memory_hardly_grows_with_the_corpus(smallest, tmp_path):
    peaks = [peak_of_a_run(smallest, tmp_path, tokens) for tokens in TOKENS]
    print({n: f"{peak / 2**20:.0f} MB" for n, peak in zip(TOKENS, peaks, strict=True)})
    assert peaks[-1] - peaks[0] < BYTES_PER_TOKEN * (TOKENS[-1] - TOKENS[0])
