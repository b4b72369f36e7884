"""Benchmarks measure what they say: rivals compute the same numbers, and wrong results get no speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attnengine_kernels import head_sums
from attnengine_kernels.reference import pattern
from benchmarks import clouds, gpu, kernels, parts, run, verify
from benchmarks.calls import Shape, features_of, make_call
from benchmarks.passes import chunked_statistics, floors, materialised, ours, work

SMALL = Shape(2, 4, 2, 65, 32)


def test_rivals_compute_the_statistics_that_they_are_timed_for() -> None:
    call, _ = make_call(SMALL, torch.float32, "cpu")
    p = pattern(call).p.float()
    key = call.key.repeat_interleave(2, 1)
    entropy, largest, attended, masses = chunked_statistics(call)
    assert torch.allclose(entropy, torch.special.entr(p).sum(-1), atol=1e-5)
    assert torch.allclose(largest, p.amax(-1), atol=1e-6)
    assert torch.allclose(attended, p @ key, atol=1e-5)
    assert torch.allclose(masses, p @ features_of(call)[:, None], atol=1e-5)
    assert torch.allclose(materialised(call)[0], entropy, atol=1e-5)


def test_the_floor_is_plain_attention_and_the_work_is_counted() -> None:
    call, facts = make_call(SMALL, torch.float32, "cpu")
    output = floors(SMALL, "cpu")["sdpa"].run(call)
    assert torch.allclose(output, pattern(call).p.float() @ call.value.repeat_interleave(2, 1), atol=1e-5)
    flops, _ = work(floors(SMALL, "cpu")["sdpa"], call)
    assert flops == 4 * 2 * (65 * 66 // 2) * 4 * 32
    assert set(ours("cpu", facts)) == {"every column", "core columns", "every column, own lse"}


def test_skewed_calls_are_padded_and_see_real_tokens_only() -> None:
    call, facts = make_call(replace_shape(skewed=True), torch.float32, "cpu")
    assert facts.real[0].all()
    assert not facts.real[1].all()
    assert torch.equal(call.hi > call.lo, facts.real)


def replace_shape(**changes: bool) -> Shape:
    return SMALL._replace(**changes)


def test_speed_is_refused_for_wrong_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def wrong(*args: object, path: str = "auto", **kwargs: object) -> dict[str, torch.Tensor]:
        found = head_sums(*args, path=path, **kwargs)  # type: ignore[arg-type]
        return found if path == "reference" else found | {"entropy": found["entropy"] + 1}

    monkeypatch.setattr(verify, "head_sums", wrong)
    output = tmp_path / "result.json"
    assert kernels.main(["--quick", "--device", "cpu", "--output", str(output)]) == 1
    printed = capsys.readouterr()
    assert "entropy is off by" in printed.err
    assert "no speed is given" in printed.out
    assert "× F" not in printed.out
    assert not output.exists()


def test_results_that_change_from_run_to_run_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(1000))

    def restless(*args: object, path: str = "auto", **kwargs: object) -> dict[str, torch.Tensor]:
        found = head_sums(*args, path=path, **kwargs)  # type: ignore[arg-type]
        return found if path == "reference" else found | {"p_max": found["p_max"] + 1e-12 * next(count)}

    monkeypatch.setattr(verify, "head_sums", restless)
    assert any("differ in their bits" in text for text in verify.failures("cpu", quick=True))


def test_whole_forwards_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run.json"
    arguments = ["--model", "llama-small", "--length", "64", "--tokens", "256", "--repeats", "2", "--memory", "512"]
    assert run.main([*arguments, "--device", "cpu", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    (row,) = found["times"]
    assert set(row["ratio"]) == {"plain", "plain again", "every column", "core", "eager", "eager + 3 statistics"}
    assert row["ratio"]["plain"] == 1.0
    assert row["tokens_per_second_share"]["eager"] == pytest.approx(1 / row["ratio"]["eager"], abs=2e-2)
    assert (row["windows"], row["tokens"]) == (4, 256)
    assert found["memory"][0]["beyond_plain_mb"] > 0
    assert {"commit", "date", "device", "versions"} <= set(found)
    assert "llama-small" in capsys.readouterr().out


def test_the_parts_of_the_cpu_path_make_up_the_whole_and_leave_it_as_it_was(tmp_path: Path) -> None:
    before = (torch.bmm, parts.cpu.tile_pass, parts.cpu.finish)
    output = tmp_path / "parts.json"
    for _ in range(3):  # the products' floor is timed by itself: a busy machine may slow it alone, hardly three times
        assert parts.main(["--length", "128", "--repeats", "1", "--output", str(output)]) == 0
        (row,) = json.loads(output.read_text())["shapes"]
        if all(row[stats]["ms"]["products"] > 0.5 * row[stats]["floor"]["products"] for stats in ("core", "all")):
            break
    for stats, absent in (("core", {"variance shares", "mean pattern"}), ("all", set())):
        ms = row[stats]["ms"]
        assert set(ms) == {*parts.PARTS, "the rest", "all"}
        assert sum(ms.values()) - ms["all"] == pytest.approx(ms["all"], abs=0.1)
        assert {name for name, value in ms.items() if value == 0.0} >= absent
        assert ms["products"] > 0.5 * row[stats]["floor"]["products"] > 0
    assert (torch.bmm, parts.cpu.tile_pass, parts.cpu.finish) == before


@pytest.mark.parametrize(("option", "value"), [("--model", "nonsense"), ("--length", "short")])
def test_unknown_models_and_lengths_are_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main([option, value])
    assert stopped.value.code == 2
    assert value in capsys.readouterr().err


def test_the_plot_shows_every_pass(tmp_path: Path) -> None:
    rows = [{"name": name, "ratio": ratio, "target": target} for name, ratio, target in
            (("sdpa", 1.0, None), ("row: ak", 1.2, 1.3), ("flex attention", 2.0, None))]  # fmt: skip
    shapes = [{"shape": SMALL._asdict(), "f_ms": 1.5, "rows": rows}] * 2
    about = {"device": "a GPU", "date": "2026-11-21", "commit": "0" * 40, "kernels": {"shapes": shapes}}
    gpu.plot(about, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn.count("<!-- row: ak -->") == 2
    assert "<!-- flex attention -->" in drawn


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_the_gpu_benchmark_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_clouds_are_timed_by_step_and_their_bits_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    on_cpu = lambda plans, _device: [clouds.lay_out(p.start, p.plan, p.descent) for p in plans]  # noqa: E731
    monkeypatch.setattr(clouds, "lay_out_heads", on_cpu)
    given: list[tuple[int, ...]] = []
    rivals = {"another": lambda points, _seed: given.append(points.shape)}
    monkeypatch.setattr(clouds.umap_rivals, "installed", lambda _device: rivals)
    row = clouds.measured(clouds.Heads(2, 200), "cpu")
    assert given == [(200, clouds.D)] * 2
    assert row["rivals_all_of_one_head_s"]["another"] >= 0
    assert row["same_bits_alone"]
    assert row["same_bits_as_cpu"]
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert row["total_s"] == pytest.approx(sum(row["seconds"].values()), abs=0.01)
    monkeypatch.setattr(clouds, "lay_out_heads", lambda plans, device: [p + 1 for p in on_cpu(plans, device)])
    assert not clouds.measured(clouds.Heads(1, 200), "cpu")["same_bits_as_cpu"]
