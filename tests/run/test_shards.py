"""The plan's shards, what becomes of them, and merging what is there: failed, missing, or not yet made."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from attnengine import errors, store
from attnengine.corpus.plan import cut_shards, pack, squares
from attnengine.opened import open_run
from attnengine.run import dispatch, shards
from tests.run.conftest import same_numbers


def test_shards_are_balanced_by_the_sum_of_squared_lengths():
    """Against the bound of Graham (1969): no shard is further above another than one batch."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(16, 513, 4000).astype(np.int32)
    batches = pack(lengths, 4096)
    found = cut_shards(batches, lengths, 32768)
    assert len(found) == round(int(lengths.sum()) / 32768)
    assert sorted(batch for shard in found for batch in shard) == list(range(len(batches)))
    cost = [sum(squares(lengths[list(batches[batch])]) for batch in shard) for shard in found]
    assert max(cost) - min(cost) <= max(squares(lengths[list(batch)]) for batch in batches)
    assert all(list(shard) == sorted(shard) for shard in found)  # a batch too large for memory still comes first


def test_the_table_of_shards_says_what_each_holds_and_what_became_of_it(undisturbed):
    run = open_run(undisturbed)
    table = run.shards
    assert list(table.columns) == [
        "shard", "n_batches", "n_windows", "n_tokens", "sum_squared_length", "status", "attempts", "seconds", "resplit",
    ]  # fmt: skip
    assert table.n_windows.sum() == len(run.windows)
    assert table.n_tokens.sum() == run.windows.n_tokens.sum()
    assert table.sum_squared_length.sum() == (run.windows.n_tokens.astype(int) ** 2).sum()
    assert (table.status == "done").all()
    assert (table.attempts == 1).all()
    assert (table.seconds > 0).all()
    assert not table.resplit.any()
    assert run.coverage["tokens"] == run.coverage["tokens_planned"] == run.manifest["corpus"]["tokens"]


@pytest.fixture
def poison(monkeypatch):
    """Make shards raise: {shard: number of attempts that fail}."""
    run_shard, left = dispatch.run_shard, {}

    def raising(job, shard, *rest):
        if left.get(shard, 0) > 0:
            left[shard] -= 1
            raise RuntimeError(f"shard {shard}\nhas a bad window")
        return run_shard(job, shard, *rest)

    monkeypatch.setattr(dispatch, "run_shard", raising)
    return left


def test_a_shard_that_fails_twice_and_then_works_changes_no_number(cli, seven, undisturbed, poison, tmp_path):
    poison.update({2: 2})
    code, said = cli(*seven, tmp_path / "r")
    assert code == 0
    assert "shard 2 failed, attempt 2 of 3: RuntimeError: shard 2 has a bad window; it will be tried again" in said
    assert same_numbers(undisturbed, tmp_path / "r")
    table = open_run(tmp_path / "r").shards
    assert table.attempts.tolist() == [1, 1, 3, 1, 1, 1, 1]
    assert not list(tmp_path.rglob("*.failed"))


def test_a_poison_shard_is_given_up_told_and_left_out_only_when_asked(cli, seven, undisturbed, poison, tmp_path):
    run = tmp_path / "r"
    poison.update({2: 99, 5: 99})
    code, said = cli(*seven, run, "-q")
    assert code == 2
    assert "2 of 7 shards of" in said
    assert "2 of them failed (the first: RuntimeError: shard 2 has a bad window" in said
    assert "--allow-missing" in said
    assert "Traceback" not in said
    told = json.loads((run / "shards" / "shard-00002.failed").read_text())
    assert [one["error"] for one in told["attempts"]] == ["RuntimeError: shard 2 has a bad window"] * 3
    assert 'raise RuntimeError(f"shard {shard}' in told["attempts"][0]["traceback"]
    assert len(list((run / "shards").glob("shard-*.safetensors"))) == 5  # the other shards went on
    poison.clear()
    assert cli(*seven, run, "--resume", "-q")[0] == 2  # given up: not tried again unasked
    code, said = cli("merge", run, "--allow-missing")
    assert code == 0
    opened = open_run(run)
    kept = opened.shards[opened.shards.status == "done"]
    assert opened.shards.status.tolist() == ["done", "done", "failed", "done", "done", "failed", "done"]
    assert opened.coverage["shards"] == 5
    assert opened.coverage["tokens"] == kept.n_tokens.sum() < opened.coverage["tokens_planned"]
    share = 100 * kept.n_tokens.sum() / opened.coverage["tokens_planned"]
    assert f"5 of 7 shards, {share:.1f} % of the tokens" in said
    assert any("5 of 7 shards" in warning for warning in opened.manifest["warnings"])
    assert opened.heads.n_queries.max() == kept.n_tokens.sum()
    assert len(opened.tokens) == len(opened.queries(0)) < len(open_run(undisturbed).tokens)
    for path in run.rglob("*.failed"):
        path.unlink()
    assert cli(*seven, run, "--resume", "-q")[0] == 0
    assert same_numbers(undisturbed, run)


def test_what_every_shard_would_raise_ends_the_run_at_once(cli, seven, monkeypatch, tmp_path):
    tried = []

    def defect(_job, shard, *_rest):
        tried.append(shard)
        raise errors.CaptureError("L0H0: attention sums to 1 ± 0.5")

    monkeypatch.setattr(dispatch, "run_shard", defect)
    code, said = cli(*seven, tmp_path / "r", "-q")
    assert (code, tried) == (2, [0])
    assert "attention sums to 1 ± 0.5" in said
    assert not list(tmp_path.rglob("*.failed"))


def test_when_the_first_shards_all_fail_it_is_not_their_data(cli, seven, poison, tmp_path):
    poison.update(dict.fromkeys(range(7), 99))
    code, said = cli(*seven, tmp_path / "r", "-q")
    assert code == 2
    assert "3 shards failed and none worked, so it is not their data" in said
    assert "shard-00002.failed has the traceback" in said
    assert len(list(tmp_path.rglob("*.failed"))) == 3


def test_a_running_run_can_be_watched_while_it_grows(cli, seven, undisturbed, monkeypatch, tmp_path):
    """Merges of 2 and 5 shards between the runs of three shares; what was opened before stays readable."""
    run = tmp_path / "r"
    assert cli(*seven, run, "--shards", "0/3", "-q")[0] == 0  # shards 0, 3, 6
    assert open_run(run).coverage["shards"] == 0
    assert cli("merge", run)[0] == 2
    assert store.read_manifest(run)["status"] == "running"
    assert cli("merge", run, "--partial", "-q")[0] == 0
    early = open_run(run)
    assert early.manifest["status"] == "running"
    assert early.coverage["shards"] == 3
    assert early.verify() == []
    assert f"{early.coverage['tokens']:,} of {early.coverage['tokens_planned']:,} tokens" in repr(early)
    tokens = early.shards.n_tokens[[0, 3, 6]].sum()
    assert early.heads.n_queries.max() == tokens == early.coverage["tokens"]
    assert cli(*seven, run, "--shards", "1/3", "-q")[0] == 0
    assert cli("merge", run, "--partial", "-q")[0] == 0
    later = open_run(run)
    assert later.coverage["shards"] == 5
    assert early.neurons.shape == later.neurons.shape  # the merge before is still there
    assert later.queries(0).shape[0] == len(later.tokens) > len(early.tokens)
    assert cli(*seven, run, "--shards", "2/3", "-q")[0] == 0  # who comes last merges
    assert same_numbers(undisturbed, run)
    assert not (run / "so-far").exists()


def test_statistics_so_far_are_those_of_the_shards_that_are_there(cli, seven, tmp_path):
    """The values of a partial merge against Σ S / Σ N over the shard files themselves."""
    run = tmp_path / "r"
    assert cli(*seven, run, "--shards", "1/3", "-q")[0] == 0
    assert cli("merge", run, "--partial", "-q")[0] == 0
    plan, total, rows = store.read_manifest(run)["plan"], 0.0, 0.0
    pilots = shards.unpack_pilots(shards.read_tensors(run / "shards" / "pilot.safetensors", plan)[0])
    for shard in (1, 4):
        tensors, _ = shards.read_tensors(shards.shard_path(run, shard), shards.key_of(plan, pilots))
        total = total + tensors["1.grouped.entropy"].sum(0)
        rows = rows + tensors["1.grouped.entropy_n"].sum(0)
    heads = open_run(run).heads
    assert np.allclose(heads.entropy[heads.site == 1], total / rows, rtol=1e-12)


def test_a_merge_needs_neither_model_nor_transformers(cli, seven, undisturbed, tmp_path):
    run = tmp_path / "r"
    assert cli(*seven, run, "-q")[0] == 0
    (run / "heads.parquet").unlink()
    code = "import sys; from attnengine.cli import app; app(['merge', sys.argv[1]], standalone_mode=False)"
    check = "; assert 'transformers' not in sys.modules, 'loaded'"
    subprocess.run([sys.executable, "-c", code + check, str(run)], check=True, timeout=300)
    assert same_numbers(undisturbed, run)


def test_pilots_made_anew_are_never_mixed_with_shards_about_the_old_ones(cli, seven, poison, tmp_path):
    """Second moments are about the pilots: shards about others would add up to a wrong variance."""
    run = tmp_path / "r"
    assert cli(*seven, run, "--shards", "0/2", "-q")[0] == 0
    path = run / "shards" / "pilot.safetensors"
    tensors, _ = shards.read_tensors(path, plan := store.read_manifest(run)["plan"])
    shards.write_tensors(path, {name: value + 1 for name, value in tensors.items()}, plan)
    code, said = cli("merge", run, "--partial", "-q")
    assert code == 2
    assert "shard-00000.safetensors belongs to another plan" in said


def test_info_says_what_share_is_done_and_what_failed(cli, seven, poison, tmp_path, capsys, monkeypatch):
    run = tmp_path / "r"
    poison.update({3: 99})
    assert cli(*seven, run, "--shards", "0/3", "-q")[0] == 0
    monkeypatch.setattr(sys, "argv", ["attnengine", "info", str(run)])
    from attnengine.cli import main

    with pytest.raises(SystemExit, match="0"):
        main()
    told = capsys.readouterr().out
    assert "2 of 7 shards" in told
    assert "none yet" in told
    assert f"{run}/shards/shard-00003.failed tells why" in told


@pytest.mark.parametrize("share", ["3/3", "a/3", "1", "-1/3", "1/0", "²/3"])
def test_a_share_that_is_none_is_refused(cli, seven, share, tmp_path):
    code, said = cli(*seven, tmp_path / "r", "--shards", share)
    assert code == 2
    assert "--shards must be i/n with i from 0 to n - 1" in said


def test_shares_never_delete_what_others_made(cli, seven, tmp_path):
    code, said = cli(*seven, tmp_path / "r", "--shards", "0/3", "--overwrite", "-q")
    assert code == 2
    assert "each process would delete" in said


def test_a_run_goes_on_with_the_sizes_it_began_with(cli, seven, undisturbed, monkeypatch, tmp_path):
    """Batch size and threads are ours to choose; another machine that joins takes the first one's."""
    run, left_open = tmp_path / "r", [*seven[:3], *seven[7:-3], "-o"]
    assert "--batch-tokens" not in left_open
    assert "--threads" not in left_open
    assert cli(*left_open, run, "--shards", "0/2", "--batch-tokens", 300, "--shard-tokens", 1000, "--threads", 1, "-q")[
        0
    ] == 0  # fmt: skip
    assert cli(*left_open, run, "--shard-tokens", 1000, "--shards", "1/2", "-q")[0] == 0
    assert same_numbers(undisturbed, run)


def test_the_last_merge_removes_what_killed_writers_left_and_nothing_else(cli, seven, undisturbed, tmp_path):
    run = tmp_path / "r"
    assert cli(*seven, run, "--shards", "0/2", "-q")[0] == 0
    left = [run / "shards" / ".shard-00001.safetensors.0123456789ab.tmp", run / ".heads.parquet.abcdefabcdef.tmp"]
    mine = run / ".notes.tmp"
    for path in (*left, mine):
        path.write_bytes(b"half")
    assert cli(*seven, run, "--shards", "1/2", "-q")[0] == 0
    assert [path.exists() for path in (*left, mine)] == [False, False, True]
    assert same_numbers(undisturbed, run)


def test_who_comes_second_at_the_same_time_takes_the_plan_of_who_came_first(
    cli, seven, undisturbed, monkeypatch, tmp_path
):
    """The folder is still empty when this process plans, and holds another's plan when it begins."""
    from attnengine import front

    run, calls = tmp_path / "r", []
    assert cli(*seven, run, "--shards", "0/2", "-q")[0] == 0
    adopted = front.adopted

    def blind_at_first(folder, settings):
        calls.append(folder)
        return settings if len(calls) == 1 else adopted(folder, settings)

    monkeypatch.setattr(front, "adopted", blind_at_first)
    left_open = [*seven[:5], *seven[7:-3], "-o"]
    assert cli(*left_open, run, "--shards", "1/2", "-q")[0] == 0
    assert len(calls) > 1
    assert same_numbers(undisturbed, run)


def test_another_plan_is_refused_with_the_way_on(cli, seven, tmp_path):
    assert cli(*seven, tmp_path / "r", "--shards", "0/2", "-q")[0] == 0
    code, said = cli(*seven, tmp_path / "r", "--shards", "1/2", "--seed", 3, "-q")
    assert code == 2
    assert "another settings (seed)" in said
    assert "--overwrite" in said


def test_a_table_that_was_changed_is_never_shown(undisturbed, cli, seven, tmp_path):
    run = tmp_path / "r"
    assert cli(*seven, run, "-q")[0] == 0
    store.write_table(run, "heads", pd.DataFrame({"site": [0], "head": [0], "entropy": [3.0]}))
    with pytest.raises(errors.RunFormatError, match=r"heads.parquet differs from its checksum"):
        _ = open_run(run).heads
    assert cli(*seven, run, "--resume", "-q")[0] == 0  # it is merged again
    assert same_numbers(undisturbed, run)
