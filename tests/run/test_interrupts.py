"""A run that is interrupted keeps its finished shards, and goes on to the same bits, however it was ended."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from attnengine import store
from attnengine.bundled import bundled_documents, bundled_model
from attnengine.opened import open_run
from tests.run.conftest import same_numbers


def start(arguments, output, *extra):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "attnengine.cli", *map(str, [*arguments, output, *extra])]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, seconds=300):
    _, stderr = process.communicate(timeout=seconds)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr


def wait_for_shards(run: Path, process, n=1):
    deadline = time.monotonic() + 300
    while len(list(run.glob("shards/shard-*.safetensors"))) < n and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_resumes_to_the_same_bits(seven, undisturbed, cli, tmp_path, which):
    cut = tmp_path / "cut"
    stopped = start(seven, cut)
    wait_for_shards(cut, stopped)
    stopped.send_signal(which)
    code, stderr = finish(stopped)
    if which != signal.SIGKILL:
        assert code == 2, stderr
        assert "finished shards are kept" in stderr
        assert not list(cut.rglob("*.tmp"))
    assert store.read_manifest(cut)["status"] == "running"
    code, said = cli(*seven, cut, "--resume")
    assert code == 0, said
    assert "shards are already done" in said
    assert same_numbers(undisturbed, cut)


@pytest.mark.acceptance
def test_workers_end_with_their_parent(seven, undisturbed, cli, tmp_path):
    """By SIGTERM the parent ends them and says how to go on; by SIGKILL they notice."""
    for which in (signal.SIGTERM, signal.SIGKILL):
        cut = tmp_path / which.name
        parent = start(seven, cut, "--workers", "2")
        wait_for_shards(cut, parent)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.send_signal(which)
        code, stderr = finish(parent)
        assert code == (2 if which == signal.SIGTERM else -signal.SIGKILL)
        assert which == signal.SIGKILL or "finished shards are kept" in stderr
        assert not psutil.wait_procs(children, timeout=60)[1]
        assert cli(*seven, cut, "--resume", "-q")[0] == 0
        assert same_numbers(undisturbed, cut)


@pytest.mark.acceptance
def test_twenty_kills_change_no_bit_of_a_run_over_the_real_model(tmp_path):
    """MiniLM over all topics, 128k tokens, killed with SIGKILL at random instants of loading, planning and running."""
    corpus = tmp_path / "topics"
    corpus.mkdir()
    for name, text in bundled_documents():
        (corpus / f"{name.replace('/', '-')}.txt").write_text(text)
    tokens = int(os.environ.get("ATTNENGINE_KILL_TOKENS", "128000"))  # fewer where the machine is busy
    sizes = ["--max-tokens", tokens, "--shard-tokens", tokens // 32, "--threads", 1]
    run = ["run", bundled_model(), corpus, *sizes, "-q", "-o"]
    code, stderr = finish(start(run, tmp_path / "whole"), 1800)
    assert code == 0, stderr
    cut, chance, kills = tmp_path / "cut", random.Random(0), 0
    while kills < 20:
        process = start(run, cut, *(["--resume"] if (cut / "manifest.json").exists() else []))
        try:
            code, stderr = finish(process, chance.uniform(4, 20))
        except subprocess.TimeoutExpired:
            process.kill()
            finish(process)
            kills += 1
            continue
        assert code == 0, stderr  # done before the twentieth kill: lose something and go on
        for path in sorted(cut.glob("shards/shard-*"))[:20]:
            path.unlink()
        (cut / "heads.parquet").unlink()
    code, stderr = finish(start(run, cut, "--resume"), 1800)
    assert code == 0, stderr
    assert same_numbers(tmp_path / "whole", cut)
    assert open_run(cut).manifest["corpus"]["tokens"] >= tokens
