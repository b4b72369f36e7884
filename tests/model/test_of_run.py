"""The model of a run is found again by what its manifest says, and known by its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer, BertModel

import attnengine as ae
from attnengine.bundled import bundled_model
from attnengine.errors import ModelError
from attnengine.model.live import look
from attnengine.model.of_run import load_model_of


class Told:
    """A run as far as it is asked here."""

    def __init__(self, **model: Any) -> None:
        self.path, self.manifest = Path("r"), {"model": model}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig

    path = tmp_path_factory.mktemp("model")
    config = BertConfig(
        vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    AutoTokenizer.from_pretrained(bundled_model("minilm")).save_pretrained(path)
    return path


def test_a_run_of_a_folder_and_one_of_the_model_in_memory_find_it_again(folder: Path, tmp_path: Path) -> None:
    from attnengine.model.load import load_model
    from attnengine.run.prepare import describe_model

    on_disk = load_model(str(folder), dtype="bf16")
    again = load_model_of(Told(**describe_model(on_disk)))  # type: ignore[arg-type]
    assert again.weights_sha256 == on_disk.weights_sha256
    assert str(again.model.dtype) == "torch.bfloat16"
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    run = ae.analyze(model, AutoTokenizer.from_pretrained(folder), ["One. Two."], output=tmp_path / "r")
    again = load_model_of(run)
    assert look(again, "a b").attentions[0].query.shape == (2, 4, 4)


def test_a_bundled_model_is_found_by_its_weights_whatever_the_run_calls_it() -> None:
    from attnengine.bundled import SHA256

    told = Told(id="no/such-model", weights_sha256=SHA256["minilm"]["model.safetensors"], dtype="float32")
    assert load_model_of(told).class_name == "BertModel"  # type: ignore[arg-type]


def test_other_weights_than_the_runs_are_refused_and_a_missing_folder_says_that_the_run_remains(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"holds other weights now .*put the old ones back, or make the run again"):
        load_model_of(Told(id=str(folder), weights_sha256="ab" * 32))  # type: ignore[arg-type]
    gone = tmp_path / "gone"
    shutil.copytree(folder, gone)
    shutil.rmtree(gone)
    with pytest.raises(ModelError, match=r"cannot be loaded here: there is no folder .*can be looked at without it"):
        load_model_of(Told(id=str(gone), weights_sha256="ab" * 32))  # type: ignore[arg-type]
    for damaged in (Told(), Told(id=3, weights_sha256="ab"), Told(id=str(folder), weights_sha256=None)):
        with pytest.raises(ModelError, match="does not say which model"):
            load_model_of(damaged)  # type: ignore[arg-type]


def test_a_stored_window_gives_the_vectors_and_texts_that_the_run_sampled_from_it(folder: Path, tmp_path: Path) -> None:
    from attnengine.corpus.documents import Document
    from attnengine.model.live import look_at

    texts = ["The cat sat on the mat. It purred, and the mat was warm. " * 6, "A dog barked at the cat, twice! " * 5]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    run = ae.analyze(
        AutoModel.from_pretrained(folder), tokenizer, texts, output=tmp_path / "r", window=40, stride=25, sample=40
    )
    loaded = load_model_of(run)
    table = run.tokens.merge(run.windows, on=["window", "document"])
    first = run.windows.groupby("document")["window"].min()
    for (document, window), rows in table.groupby(["document", "window"]):
        where = Document("one", 0, 0, texts[document])
        sentence = look_at(loaded, where, window - first[document], length=40, stride=25)
        at = rows["position"].to_numpy()
        for call in sentence.attentions:
            stored = run.queries(call.site.site)[rows["token"].to_numpy()]
            assert np.abs(call.query[:, at].swapaxes(0, 1) - stored).max() <= 1e-4
        texts_here = [sentence.streams[""].texts[i] for i in at]
        assert texts_here == rows["text"].tolist()
