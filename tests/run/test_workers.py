"""Processes, Ray and shares give the bits of one process, and a worker that is killed costs one attempt."""

import os
import signal
from functools import partial

import pytest

from attnengine.model.load import load_model
from attnengine.opened import open_run
from attnengine.run import ray_cluster, workers
from tests.run.conftest import same_numbers


def kill_once(crew, monkeypatch, shard, pid_of_next):
    """SIGKILL the worker that gets ``shard`` the first time, right after it got it."""
    submit, killed = crew.submit, []

    def submitting(self, given, attempt):
        dies = given == shard and not killed
        pid = pid_of_next(self) if dies else None
        submit(self, given, attempt)
        if dies:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    monkeypatch.setattr(crew, "submit", submitting)
    return killed


def assert_one_attempt_was_lost(code, said, killed, undisturbed, run):
    assert code == 0, said
    assert len(killed) == 1
    assert "shard 3 failed, attempt 1 of 3" in said
    assert same_numbers(undisturbed, run)
    assert open_run(run).shards.attempts.tolist() == [1, 1, 1, 2, 1, 1, 1]


def test_two_workers_of_which_one_is_killed_give_the_bits_of_one_process(
    cli, seven, undisturbed, monkeypatch, tmp_path
):
    def pid(crew):
        return next(worker.process.pid for worker in crew.workers if worker.shard is None)

    killed = kill_once(workers.Processes, monkeypatch, 3, pid)
    code, said = cli(*seven, tmp_path / "r", "--workers", 2)
    assert_one_attempt_was_lost(code, said, killed, undisturbed, tmp_path / "r")
    assert "ended by signal 9" in said


@pytest.mark.acceptance
def test_ray_workers_of_which_one_is_killed_give_the_bits_of_one_process(
    cli, seven, undisturbed, monkeypatch, tmp_path
):
    class Mortal(ray_cluster.Hand):
        def pid(self):
            return os.getpid()

    def pid(crew):
        import ray

        taken = {k for k, _ in crew.pending.values()}
        return ray.get(next(hand for k, hand in enumerate(crew.hands) if k not in taken).pid.remote())

    monkeypatch.setattr(ray_cluster, "Hand", Mortal)
    killed = kill_once(ray_cluster.OnRay, monkeypatch, 3, pid)
    code, said = cli(*seven, tmp_path / "r", "--ray", "local", "--workers", 2)
    assert_one_attempt_was_lost(code, said, killed, undisturbed, tmp_path / "r")
    assert "the Ray worker died" in said


@pytest.mark.acceptance
@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_number_of_workers_gives_the_bits_of_one_process(cli, seven, undisturbed, tmp_path, n):
    assert cli(*seven, tmp_path / "r", "--workers", n, "-q")[0] == 0
    assert same_numbers(undisturbed, tmp_path / "r")


@pytest.mark.acceptance
def test_a_worker_that_finds_no_model_ends_the_run_with_one_line(cli, seven, monkeypatch, tmp_path):
    monkeypatch.setattr("attnengine.run.workers.Orders.of", with_load(partial(load_model, "/nowhere/at/all")))
    code, said = cli(*seven, tmp_path / "r", "--workers", 1, "-q")
    assert code == 2
    assert "/nowhere/at/all" in said
    assert "Traceback" not in said


def with_load(load):
    make = workers.Orders.of
    return lambda job, plan, _load: make(job, plan, load)


def test_ray_actors_leave_a_cpu_free_and_fit_the_gpus():
    assert ray_cluster._share_of({"CPU": 2.0}, 2, on_gpu=False) == 0.5
    assert ray_cluster._share_of({"CPU": 1.0}, 3, on_gpu=False) == pytest.approx(0.166)
    assert ray_cluster._share_of({"CPU": 64.0}, 4, on_gpu=False) == 1.0
    with pytest.raises(Exception, match="1 GPUs for 2 workers"):
        ray_cluster._share_of({"CPU": 64.0, "GPU": 1.0}, 2, on_gpu=True)
