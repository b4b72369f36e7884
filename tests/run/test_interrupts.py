"""A run that is interrupted keeps its finished shards, and goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest

from attnengine import store

COMMAND = [sys.executable, "-m", "attnengine.cli", "run"]
OPTIONS = ["--shard-tokens", "1000", "--batch-tokens", "300", "--sample", "500", "--window", "40"]


def start(tiny_bert, corpus, output, *extra):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [str(tiny_bert), str(corpus), "-o", str(output), *OPTIONS, *extra]
    return subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_bits(tiny_bert, corpus, tmp_path, which):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = start(tiny_bert, corpus, whole)
    _, stderr = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, stderr
    stopped = start(tiny_bert, corpus, cut)
    deadline = time.monotonic() + 120
    while not list(cut.glob("shards/shard-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    stopped.send_signal(which)
    _, stderr = stopped.communicate(timeout=120)
    assert stopped.returncode == 2, stderr
    assert "finished shards are kept" in stderr
    assert "Traceback" not in stderr
    assert store.read_manifest(cut)["status"] == "running"
    assert not list(cut.rglob("*.tmp"))
    resumed = start(tiny_bert, corpus, cut, "--resume")
    _, stderr = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, stderr
    assert "shards are already done" in stderr
    assert store.read_manifest(cut)["run_hash"] == store.read_manifest(whole)["run_hash"]
