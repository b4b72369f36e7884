"""The main job at its full size: minutes long, run by `make acceptance`."""

import subprocess
import sys
import time

import pytest

import attnengine as ae
from attnengine.statistics.catalogue import HEADS, NEURONS

pytestmark = pytest.mark.acceptance


def test_the_demo_covers_all_topics_names_its_heads_and_lays_them_out_in_under_ten_minutes(tmp_path, root):
    started = time.monotonic()
    command = [sys.executable, "-m", "attnengine.cli", "demo", "-o", str(tmp_path / "run"), "--no-serve"]
    subprocess.run(command, check=True, cwd=root, timeout=600)
    assert time.monotonic() - started < 600
    run = ae.open_run(tmp_path / "run")
    assert run.manifest["corpus"]["documents"] >= 75  # 79 on Python 3.11
    assert run.manifest["corpus"]["tokens"] > 120_000
    assert run.manifest["nan_heads"] == run.manifest["warnings"] == run.verify() == []
    for table, entries in ((run.heads, HEADS), (run.neurons, NEURONS)):
        for name, entry in entries.items():
            if name in ("learned_sink_mass", "next_mass"):  # no learned sink; a causal model sees no next token
                continue
            assert table[name].notna().all(), name
            assert not entry.has_error or table[f"{name}_se"].notna().all(), name
    assert run.heads["next_mass"].isna().all()
    assert {"previous_token", "induction"} <= set(run.heads["type"])
    assert run.heads["types"].str.contains("first_token").any()  # the sink
    assert len(run.clouds) == len(run.heads)


def test_every_shipped_kernel_compiles_for_every_target_without_a_defect(without_interpreter, root):
    """The full ahead-of-time matrix: exit 0 means no stack, no spills, shared memory in bounds, wgmma on sm_90."""
    command = [sys.executable, "-m", "attnengine_kernels.gpu.aot"]
    environment = without_interpreter | {"PYTHONPATH": str(root / "kernels")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=4000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
