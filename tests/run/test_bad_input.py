"""Whatever goes wrong, a user sees one line that says what to do, exit code 2, and no run that looks complete."""

import gzip
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DebertaV2Config, DebertaV2Model, MambaConfig, MambaModel

from attnengine import disk, store
from attnengine.errors import RunFormatError
from attnengine.opened import open_run


def refused(result, *words):
    """Exit code 2 and one line of ours that holds every word."""
    code, stderr = result
    lines = [line for line in stderr.splitlines() if line.startswith("attnengine: ")]
    assert code == 2, stderr
    assert len(lines) == 1, stderr
    assert lines[0].isprintable()
    assert "Traceback" not in stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("model", ["/nowhere/at/all", "nobody/nothing-of-this-name"])
def test_a_missing_model(cli, corpus, tmp_path, model):
    refused(cli("run", model, corpus, "-o", tmp_path / "r"), model.rsplit("/", maxsplit=1)[-1])
    assert not (tmp_path / "r").exists()


def save_with_tokenizer(model, tiny_bert, folder):
    model.save_pretrained(folder)
    for path in tiny_bert.glob("*token*"):
        shutil.copy(path, folder)
    return folder


def test_a_model_without_attention(cli, corpus, tiny_bert, tmp_path):
    config = MambaConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=1, state_size=4)
    folder = save_with_tokenizer(MambaModel(config), tiny_bert, tmp_path / "mamba")
    refused(cli("run", folder, corpus, "-o", tmp_path / "r", "-q"), "no attention")
    assert not (tmp_path / "r").exists()


def test_deberta_which_bypasses_the_interface(cli, corpus, tiny_bert, tmp_path):
    config = DebertaV2Config(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    folder = save_with_tokenizer(DebertaV2Model(config), tiny_bert, tmp_path / "deberta")
    refused(cli("run", folder, corpus, "-o", tmp_path / "r", "-q"), "interface")


def test_a_tokenizer_that_is_not_fast(cli, corpus, tiny_bert, tmp_path):
    folder = tmp_path / "slow"
    shutil.copytree(tiny_bert, folder)
    for path in folder.glob("*token*"):
        path.unlink()
    refused(cli("run", folder, corpus, "-o", tmp_path / "r"), "tokenizer")


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("empty.txt", b"", "empty"),
        ("noise.txt", bytes(range(256)) * 40, "NUL"),
        ("latin.txt", "café".encode("latin-1"), "not UTF-8"),
        ("rows.jsonl", b'{"text": "a"}\n{"other": 1}\n', "line 2"),
        ("line.txt", b"a" * 2_000_000, "one line has 2,000,000 characters"),
        # The data are part of a test's name, so they may not hold the time: two workers would collect two tests.
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "cut.jsonl.gz is cut off"),
        ("bad.parquet", b"PAR1 nothing PAR1", "cannot read bad.parquet"),
        ("bad.tar", b"\x1b[31m nothing" * 99, "bad.tar: damaged or cut off at byte 0"),
        ("bad.csv", b"text,y\na,b\na,b,\x1b[31m\n", "Expected 2 columns, got 3"),
        ("rows.json", b'[{"text": "a"}]', "expected .jsonl"),
    ],
)
def test_a_corpus_that_is_not_text(cli, tiny_bert, tmp_path, name, data, word):
    (tmp_path / name).write_bytes(data)
    refused(cli("run", tiny_bert, tmp_path / name, "-o", tmp_path / "r"), word)
    assert not (tmp_path / "r").exists()


def test_a_window_longer_than_the_models_positions(cli, tiny_bert, corpus, tmp_path):
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--window", 129), "128 positions")


def test_images_for_a_text_model(cli, tiny_bert, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused(cli("run", tiny_bert, tmp_path / "a.png", "-o", tmp_path / "r"), "images")


def test_values_that_make_no_sense(cli, tiny_bert, corpus, tmp_path):
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--dtype", "int8"), "--dtype must be auto")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--bos", "maybe"), "bos must be")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--device", "tpu:0"), "device")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--documents", "page"), "documents must be")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--stats", "nonsense"), "stats must be all or")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--token-class", "a"), "must be NAME=REGEX")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--token-class", "a=("), "no regular expression")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--token-class", "self=a"), "is taken")
    refused(cli("run", tiny_bert, corpus, "-o", tmp_path / "r", "--pair-column", "b"), "line 1", "'b'")
    refused(cli("run", tiny_bert, "hf:nobody/nothing", "-o", tmp_path / "r"), "hf:nobody/nothing", "network")
    refused(cli("run", tiny_bert, tmp_path / "*.txt", "-o", tmp_path / "r"), "no file matches")


def test_an_existing_folder_is_never_touched_unasked(cli, tiny_bert, corpus, tmp_path):
    run = ["run", tiny_bert, corpus, "-q", "--sample", 64, "-o"]
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.txt").write_text("precious")
    for extra in ([], ["--overwrite"], ["--resume"]):
        refused(cli(*run, foreign, *extra), "is not a run")
    assert (foreign / "cat.txt").read_text() == "precious"
    assert cli(*run, tmp_path / "r")[0] == 0
    before = store.read_manifest(tmp_path / "r")["run_hash"]
    refused(cli(*run, tmp_path / "r"), "--resume", "--overwrite")
    refused(cli(*run, tmp_path / "r", "--resume", "--seed", 5), "another settings (seed)", "--overwrite")
    refused(cli(*run, tmp_path / "r", "--resume", "--stats", "core"), "another settings (stats)", "--overwrite")
    assert cli(*run, tmp_path / "r", "--resume")[0] == 0
    assert cli(*run, tmp_path / "r", "--overwrite")[0] == 0
    assert store.read_manifest(tmp_path / "r")["run_hash"] == before
    (tmp_path / "file").write_text("")
    refused(cli(*run, tmp_path / "file"), "is a file")


def test_a_folder_that_is_no_run_or_a_damaged_one(cli, tiny_bert, corpus, tmp_path):
    refused(cli("info", tmp_path), "no manifest.json")
    refused(cli("info", tmp_path / "nowhere"), "not a folder")
    (tmp_path / "manifest.json").write_text("{")
    refused(cli("info", tmp_path), "not readable JSON")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": store.FORMAT, "format_version": 99}))
    refused(cli("info", tmp_path), "version 99")
    run = tmp_path / "r"
    assert cli("run", tiny_bert, corpus, "-o", run, "-q", "--sample", 64)[0] == 0
    (run / "neurons.parquet").write_bytes(b"PAR1 nothing")
    refused(cli("info", run, "--verify"), "neurons.parquet differs")
    with pytest.raises(RunFormatError, match=r"neurons\.parquet"):
        _ = open_run(run).neurons
    with pytest.raises(RunFormatError, match="outside itself"):
        disk.inside(run, "../../etc/passwd")


def test_a_full_disk_keeps_what_was_done_and_says_so(cli, tiny_bert, corpus, tmp_path, monkeypatch):
    """The third shard does not fit: exit 2 with the way on, an unfinished run, and --resume gives the same bits."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run = ["run", tiny_bert, corpus, "-q", "--shard-tokens", 1000, "--batch-tokens", 500, "--sample", 300, "-o"]
    assert cli(*run, whole)[0] == 0
    write = store.write_atomic

    def full(path, data):
        if path.name == "shard-00002.safetensors":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomic", full)
        refused(cli(*run, cut), "No space left", "--resume")
    assert store.read_manifest(cut)["status"] == "running"
    with pytest.raises(RunFormatError, match=r"no heads.parquet was merged yet; `attnengine merge .* --partial`"):
        _ = open_run(cut).heads
    refused(cli(*run, cut), "already holds a running run")
    assert cli(*run, cut, "--resume")[0] == 0
    assert store.read_manifest(cut)["run_hash"] == store.read_manifest(whole)["run_hash"]


def test_a_damaged_shard_is_refused_on_resume(cli, tiny_bert, corpus, tmp_path, monkeypatch):
    run = ["run", tiny_bert, corpus, "-q", "--shard-tokens", 1000, "--sample", 0, "-o", tmp_path / "r"]
    with monkeypatch.context() as patch:
        patch.setattr("attnengine.run.execute.merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        refused(cli(*run), "finished shards are kept", "--resume")
    shard = next((tmp_path / "r" / "shards").glob("shard-*"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    refused(cli(*run, "--resume"), "checksum")


def test_nan_weights_are_reported_by_head_and_not_averaged_away(cli, tiny_bert, corpus, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.1.attention.self.query.weight"))
    weights[name][8:16] = torch.nan  # layer 1, head 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, stderr = cli("run", folder, corpus, "-o", tmp_path / "r", "-q", "--sample", 64)
    assert code == 0
    assert "warning: 1 of 8 heads have values that are not finite, the first is L1H1" in stderr
    run = open_run(tmp_path / "r")
    assert run.manifest["nan_heads"] == [[1, 1]]
    bad = (run.heads.site == 1) & (run.heads["head"] == 1)
    assert run.heads[bad].entropy.isna().all()
    assert run.heads[~bad].entropy.notna().all()


def test_a_folder_that_cannot_be_written(cli, tiny_bert, corpus):
    refused(cli("run", tiny_bert, corpus, "-o", "/dev/null/r"), "give a folder that can be written")
