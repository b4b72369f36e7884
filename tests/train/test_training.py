"""The training scripts: batches depend on the step alone; a resumed training ends with an undisturbed one's bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from examples.train import causal, checkpoint, loop
from examples.train.batches import IGNORED, Mixture, Stage, batch_at
from examples.train.scores import score_table
from examples.train.vocabulary import BOS_ID

TEXT = Stage(3, rows=8, length=64, synthetic=2, shortest=4, longest=20)
REPEATS = Stage(9, rows=4, length=32, synthetic=4, shortest=3, longest=8)
MIXTURE = Mixture(seed=3, vocabulary=50, stages=(TEXT, REPEATS))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Token files of a made-up language."""
    rng = np.random.default_rng(0)
    for name in ("train", "held_out"):
        np.save(tmp_path / f"{name}.npy", rng.integers(2, 50, size=5000, dtype=np.uint16))
    return tmp_path


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, max_position_embeddings=128, tie_word_embeddings=True,
        )
    )  # fmt: skip


def settings(**changed: float) -> loop.Settings:
    return loop.Settings(
        **{"steps": 8, "peak_rate": 1e-2, "warmup": 2, "measure_every": 2, "muon_rate": 1e-2} | changed
    )


def trained(work: Path, **changed: float) -> dict[str, torch.Tensor]:
    """The weights after training in ``work``."""
    model = tiny_model()
    causal.run_training(model, work, MIXTURE, settings(**changed))
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def scores_by_step(work: Path) -> dict[str, list[str]]:
    """What the curve says after each measured step, but for the loss since the row before and the time."""
    names = ("tokens", "held_out", "induction", "induction_head", "previous_text")
    return {row["step"]: [row[name] for name in names] for row in loop.read_curve(work / "curve.csv")}


def test_a_batch_is_the_same_however_often_and_in_whatever_order_it_is_asked_for(work: Path) -> None:
    stream = np.load(work / "train.npy")
    forward = [batch_at(step, stream, MIXTURE) for step in range(4)]
    backward = [batch_at(step, stream, MIXTURE) for step in reversed(range(4))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(forward[0][0], forward[1][0])


def test_synthetic_rows_repeat_a_segment_behind_random_gaps_with_loss_where_a_copy_can_be_predicted(work: Path) -> None:
    stream, seen = np.load(work / "train.npy"), set[int]()
    for step in (3, 4, 5):
        for row, labels in zip(*(part.numpy() for part in batch_at(step, stream, MIXTURE)), strict=True):
            places = np.flatnonzero(labels != IGNORED)
            assert (labels[places] == row[places]).all()
            for place in places:  # the token before stands further left too, with the same token behind it
                earlier = [at for at in range(1, place - 1) if row[at] == row[place - 1] and row[at + 1] == row[place]]
                assert earlier
                seen.add(place - 1 - earlier[-1])
    assert len(seen) > 5  # no distance would do for all


def test_text_rows_carry_loss_everywhere_but_on_the_start_token(work: Path) -> None:
    ids, labels = batch_at(0, np.load(work / "train.npy"), MIXTURE)
    assert torch.equal(ids[TEXT.synthetic :, 1:], labels[TEXT.synthetic :, 1:])
    assert (ids[:, 0] == BOS_ID).all()
    assert (labels[:, 0] == IGNORED).all()


def test_the_bundled_models_batches_are_at_most_thirty_per_cent_synthetic() -> None:
    assert 0 < causal.MIXTURE.synthetic_share(causal.STEPS) <= 0.3


def test_stages_follow_each_other_and_the_last_one_goes_on(work: Path) -> None:
    stream = np.load(work / "train.npy")
    shapes = [tuple(batch_at(step, stream, MIXTURE)[0].shape) for step in (0, 2, 3, 8, 9, 100)]
    assert shapes == [(8, 64)] * 2 + [(4, 32)] * 4
    assert MIXTURE.synthetic_share(3) == 0.25
    assert MIXTURE.synthetic_share(5) == (3 * 2 * 64 + 2 * 4 * 32) / (3 * 8 * 64 + 2 * 4 * 32)


def test_a_training_that_was_killed_goes_on_to_the_same_bits_and_the_same_scores(
    work: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(work)
    other = tmp_path_factory.mktemp("killed")
    for name in ("train.npy", "held_out.npy"):
        (other / name).write_bytes((work / name).read_bytes())

    real, done = loop.one_step, []

    def killed_in_the_sixth_step(*arguments: object) -> float:
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "one_step", killed_in_the_sixth_step)
    with pytest.raises(KeyboardInterrupt):
        trained(other, checkpoint_every=0)
    monkeypatch.setattr(loop, "one_step", real)
    found = trained(other)

    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert scores_by_step(work) == scores_by_step(other)
    assert list(scores_by_step(work)) == ["2", "4", "6", "8"]


def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    optimizers = [torch.optim.AdamW(model.parameters())]
    checkpoint.save(work, model, optimizers, 5)

    def cut_off(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(work, model, optimizers, 6)
    assert checkpoint.load(work, model, optimizers) == 5


def test_before_training_no_head_of_the_causal_model_is_what_it_is_trained_to_be(work: Path) -> None:
    torch.manual_seed(causal.SEED)
    table = score_table(causal.new_model(), np.load(work / "held_out.npy"), rows=4)
    assert table["induction"].max() < 0.1
    assert table["previous_random"].max() < 0.5


def test_how_long_a_training_shall_be_changes_nothing_before_the_rate_goes_down() -> None:
    short, long = settings(steps=100, warmup=10), settings(steps=200, warmup=10)
    assert [loop.share_at(s, short) for s in range(80)] == [loop.share_at(s, long) for s in range(80)]
    assert loop.share_at(0, short) == pytest.approx(1 / 10)
    assert loop.share_at(50, short) == 1
    assert loop.share_at(99, short) == pytest.approx(1 / 20)


def test_the_finished_model_is_stored_in_half_precision_and_loads_in_single(tmp_path: Path) -> None:
    model = tiny_model()
    expected = {name: value.half() for name, value in model.named_parameters()}
    checkpoint.save_finished(model, tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert found.dtype == torch.float32
    assert all(torch.equal(value, expected[name].float()) for name, value in found.named_parameters())
