"""Any byte of any file of a run folder may be wrong: the result is right, or one line names the file."""

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnengine import disk, store
from attnengine.cli import main
from attnengine.errors import RunFormatError
from attnengine.opened import open_run
from attnengine.run import failures, planned, shards
from tests.run.conftest import same_numbers


def call(*arguments):
    """The command line in this process: (exit code, stdout, stderr); anything but SystemExit is a traceback."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["attnengine", *map(str, arguments)])
    with argv, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def growing(seven, tmp_path_factory):
    """The run of seven shards when three of them are done and merged, and one has failed twice."""
    run = tmp_path_factory.mktemp("growing") / "r"
    assert call(*seven, run, "--shards", "0/3", "-q")[0] == 0
    plan = store.read_manifest(run)["plan"]
    for _ in range(2):
        failures.record(run, 1, plan, failures.Failure.of(RuntimeError("a bad window")))
    assert call("merge", run, "--partial", "-q")[0] == 0
    return run


def contents(run):
    """Every number that ``open_run`` gives."""
    opened = open_run(run)
    tables = {name: getattr(opened, name) for name in store.TABLES}
    arrays = {f"{site}.{name}": np.array(getattr(opened, name)(site)) for site in (0, 1) for name in store.ARRAYS}
    return tables, arrays | {"patterns": np.array(opened.patterns)}, opened.manifest


def assert_same(one, other):
    for mine, theirs in zip(one[0].values(), other[0].values(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    for mine, theirs in zip(one[1].values(), other[1].values(), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)
    assert one[2] == other[2]


def files_of(run):
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.stat().st_size)


def damaged(data, kind, places):
    """``data`` with bytes changed, cut off, put in or taken out at ``places``, which are shares of its length."""
    found = bytearray(data)
    for share, byte in places:
        at = min(int(share * len(found)), max(len(found) - 1, 0))
        if kind == "flip":
            found[at] ^= byte
        elif kind == "cut":
            del found[at:]
        elif kind == "insert":
            found[at:at] = bytes([byte])
        elif found:
            del found[at]
    return bytes(found)


DAMAGE = st.tuples(
    st.sampled_from(["complete", "growing"]),
    st.floats(0, 1, exclude_max=True),  # which file
    st.sampled_from(["flip", "flip", "cut", "insert", "remove"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3),
    st.sampled_from(["open", "info", "verify", "merge", "resume"]),
)


def one_line(code, err, name):
    assert code == 2, err
    told = [line for line in err.splitlines() if line.startswith("attnengine: ")]
    assert len(told) == 1, err
    assert name in told[0], (name, told)


def check(case, undisturbed, growing, seven, folder):
    state, which, kind, places, action = case
    original = undisturbed if state == "complete" else growing
    names = files_of(original)
    name = names[int(which * len(names))]
    run = folder / "r"
    data = (original / name).read_bytes()
    changed = damaged(data, kind, places)
    if changed == data:  # two flips of the same bit
        return
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(original, run)
    (run / name).write_bytes(changed)
    short = Path(name).name
    if action == "open":
        try:
            assert_same(contents(run), contents(original))
        except RunFormatError as error:
            assert short in str(error)  # noqa: PT017 (either outcome is right)
    elif action in ("info", "verify"):
        code, out, err = call("info", run, *(["--verify"] if action == "verify" else []))
        listed = [entry["path"] for entry in store.read_manifest(original)["files"]]
        if code or (action == "verify" and name in listed):
            one_line(code, err, short)
        else:
            assert_same_info(out, call("info", original)[1], run, original)
    elif action == "merge":
        code, _, err = call("merge", run, *(["--partial"] if state == "growing" else []), "-q")
        if code:
            one_line(code, err, short)
        else:
            assert_merged(run, original, state)
    else:
        code, _, err = call(*seven, run, "--resume", "-q")
        if code:
            one_line(code, err, short)
        else:
            assert same_numbers(undisturbed, run)


def assert_same_info(told, expected, run, original):
    assert told.replace(str(run), "RUN").split() == expected.replace(str(original), "RUN").split()


def assert_merged(run, original, state):
    if state == "complete":
        assert same_numbers(original, run)
        return
    mine, theirs = contents(run), contents(original)
    for table in ("heads", "neurons", "profiles", "tokens"):
        pd.testing.assert_frame_equal(mine[0][table], theirs[0][table], check_exact=True)
    assert all(np.array_equal(mine[1][name], theirs[1][name], equal_nan=True) for name in mine[1])


RELAXED = {"suppress_health_check": list(HealthCheck), "deadline": None}


@settings(max_examples=50, **RELAXED)
@given(case=DAMAGE)
def test_a_damaged_folder_gives_the_right_result_or_one_line(case, undisturbed, growing, seven, tmp_path_factory):
    check(case, undisturbed, growing, seven, tmp_path_factory.getbasetemp() / "damaged")


@pytest.mark.acceptance
@settings(max_examples=1000, **RELAXED)
@given(case=DAMAGE)
def test_a_thousand_damaged_folders_give_the_right_result_or_one_line(
    case, undisturbed, growing, seven, tmp_path_factory
):
    check(case, undisturbed, growing, seven, tmp_path_factory.getbasetemp() / "damaged")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"files": [{"path": "../../etc/passwd", "sha256": ""}]}, "outside itself"),
        ({"tables": "../elsewhere", "files": [{"path": "../elsewhere/heads.parquet", "sha256": ""}]}, "outside itself"),
        ({"files": [{"path": 3}]}, "no path and checksum"),
        ({"files": {}}, "files a list"),
        ({"coverage": []}, "must be objects"),
        ({"coverage": {"shards": "7"}}, "no whole number"),
    ],
)
def test_a_manifest_that_a_stranger_sealed_is_checked_all_the_same(cli, undisturbed, tmp_path, changed, word):
    run = tmp_path / "r"
    shutil.copytree(undisturbed, run)
    store.write_manifest(run, store.read_manifest(run) | changed)
    code, said = cli("info", run, "--verify")
    assert code == 2
    assert word in said


@pytest.mark.parametrize(
    "changed", [{"model": [1], "corpus": []}, {"settings": 3, "timings": "x", "sample": None, "warnings": 7}]
)
def test_info_prints_a_manifest_of_odd_shape_without_a_traceback(undisturbed, tmp_path, changed):
    run = tmp_path / "r"
    shutil.copytree(undisturbed, run)
    store.write_manifest(run, store.read_manifest(run) | changed)
    code, out, _ = call("info", run)
    assert code == 0
    assert "format 2" in out


def test_a_shard_that_a_stranger_sealed_does_not_fit_and_is_named(growing, tmp_path):
    """The right plan and checksum around tensors that are not this run's."""
    run = tmp_path / "r"
    shutil.copytree(growing, run)
    key, path = planned.planned(run).key, shards.shard_path(run, 3)
    good, about = shards.read_tensors(path, key)
    bad = [
        {"groups": good["groups"]} | {"9.grouped.entropy": torch.ones(1, 4)},
        good | {"0.__class__.x": torch.ones(1)},
        good | {"groups": good["groups"] + 10**6},
        good | {"0.grouped.entropy": torch.ones(2, 3)},
        good | {"sample.rows": torch.tensor([-1, 10**9])},
        {name: value for name, value in good.items() if name != "groups"},
    ]
    for tensors in bad:
        path.write_bytes(shards.to_bytes(tensors, key, about))
        code, _, err = call("merge", run, "--partial", "-q")
        one_line(code, err, "shard-00003.safetensors")
    for path in run.glob("shards/shard-*.safetensors"):
        kept, about = shards.read_tensors(shards.shard_path(growing, int(path.stem[-5:])), key)
        path.write_bytes(shards.to_bytes({n: x for n, x in kept.items() if "entropy" not in n}, key, about))
    one_line(*call("merge", run, "--partial", "-q")[::2], "no sums of 'entropy")


def test_locks_keep_two_processes_from_merging_at_once(tmp_path):
    """A second process waits for the lock as long as the first holds it."""
    run = tmp_path / "r"
    run.mkdir()
    code = "import sys, pathlib\nfrom attnengine import disk\nwith disk.locked(pathlib.Path(sys.argv[1])): print('in')"
    with disk.locked(run):
        other = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=4)
    assert other.communicate(timeout=60)[0] == "in\n"


@pytest.mark.parametrize("action", ["open", "info"])
def test_a_flipped_bit_in_the_format_version_names_the_manifest(action, undisturbed, growing, seven, tmp_path):
    """Found by the thousand cases: "format_version" itself was damaged."""
    case = ("growing", files_of(growing).index("manifest.json") / len(files_of(growing)), "flip")
    at = (growing / "manifest.json").read_bytes().index(b"format_version") / (growing / "manifest.json").stat().st_size
    check((*case, [(at + 1e-6, 1)], action), undisturbed, growing, seven, tmp_path)
