"""The example files for clusters run as they stand, as far as one machine allows: every task, one after the other."""

import os
import shlex
import stat
import subprocess
import sys

import pytest
import yaml

from attnengine import store
from tests.run.conftest import same_numbers

TASKS = 3


def environment(seven, run, tmp_path):
    """What a cluster gives a task, and an ``attnengine`` on the path that cuts the tiny corpus as ``seven`` does."""
    options = shlex.join(map(str, seven[3:-1]))
    program = tmp_path / "bin" / "attnengine"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m attnengine.cli "$@" {options}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    return os.environ | paths | {"MODEL": str(seven[1]), "CORPUS": str(seven[2]), "RUN": str(run)}


def slurm_task(root, index):
    return ["bash", str(root / "examples/slurm/attnengine.sbatch")], {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_COUNT": str(TASKS),
    }


def kubernetes_task(root, index):
    job = yaml.safe_load((root / "examples/kubernetes/job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    declared = {one["name"]: one["value"] for one in container["env"]}
    assert job["completionMode"] == "Indexed"
    assert declared["SHARES"] == str(job["completions"])
    assert set(declared) == {"MODEL", "CORPUS", "RUN", "SHARES"}
    return [*container["command"], *container["args"]], {"JOB_COMPLETION_INDEX": str(index), "SHARES": str(TASKS)}


@pytest.mark.parametrize("task", [slurm_task, pytest.param(kubernetes_task, marks=pytest.mark.acceptance)])
def test_an_array_of_tasks_as_the_example_has_it_gives_the_bits_of_one_process(
    task, root, seven, undisturbed, tmp_path
):
    """Two tasks at the same time make the folder between them; the third ends the run."""
    run = tmp_path / "runs" / "r"
    given = environment(seven, run, tmp_path)
    commands = [task(root, index) for index in range(TASKS)]
    first = [
        subprocess.Popen(command, env=given | own, stderr=subprocess.PIPE, text=True) for command, own in commands[:2]
    ]
    for process in first:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert store.read_manifest(run)["status"] == "running"
    command, own = commands[2]
    subprocess.run(command, env=given | own, check=True, timeout=300)
    assert same_numbers(undisturbed, run)


def test_the_array_of_the_slurm_example_counts_from_nought(root):
    assert "#SBATCH --array=0-" in (root / "examples/slurm/attnengine.sbatch").read_text()
