"""Models in memory that are not plain: quantised, laid on devices, split over ranks, offloaded."""

import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

import attnengine as ae
from attnengine.bundled import bundled_model
from attnengine.errors import ModelError, UnsupportedModelError
from attnengine.model.load import wrap_model
from attnengine.model.state import hash_state

TEXTS = ["The cat sat on the mat, and the dog sat on the cat. " * 3, "A list is a sequence; so is a tuple.", "One two."]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model("minilm"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=30522, max_position_embeddings=128, initializer_range=0.3, **sizes)
    return BertModel(config, add_pooling_layer=False).eval()


def quantised(model):
    """Its linear layers as int8 with a scale a row, and the same numbers in plain fp32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao's own
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        held = copy.deepcopy(model)
        quantize_(held, Int8WeightOnlyConfig())
    plain = copy.deepcopy(model)
    for (name, layer), other in zip(held.named_modules(), plain.modules(), strict=True):
        if isinstance(layer, torch.nn.Linear):
            assert type(layer.weight.data) is not torch.Tensor, name
            other.weight.data = layer.weight.dequantize().float()
    return held, plain


def test_an_int8_model_gives_the_numbers_of_its_own_rounded_weights(model, tokenizer):
    held, plain = quantised(model)
    runs = [ae.analyze(one, tokenizer, TEXTS, threads=1) for one in (held, plain, model)]
    mine, theirs, before = (run.heads.select_dtypes("number") for run in runs)
    scale = theirs.abs().max().clip(lower=1)
    np.testing.assert_allclose(mine / scale, theirs / scale, atol=1e-4)
    assert (mine.entropy - before.entropy).abs().max() > 1e-4  # rounding the weights did change the model
    assert runs[0].manifest["model"]["weights_sha256"] != runs[1].manifest["model"]["weights_sha256"]


def test_what_identifies_quantised_weights_sees_data_and_scales(model):
    held, _ = quantised(model)
    known = hash_state(held)
    assert known == hash_state(quantised(model)[0])
    with torch.no_grad():
        held.encoder.layer[1].output.dense.weight.scale.mul_(2)
    assert hash_state(held) != known


def test_a_model_laid_on_devices_by_accelerate_runs(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    laid = BertModel.from_pretrained(tmp_path, device_map={"": "cpu"}, add_pooling_layer=False)
    runs = [ae.analyze(one, tokenizer, TEXTS, threads=1) for one in (laid, model)]
    assert runs[0].heads.equals(runs[1].heads)


def test_a_rank_of_a_split_model_is_refused_because_it_has_its_own_heads_only(model, tokenizer):
    model._tp_size = 2
    with pytest.raises(UnsupportedModelError, match=r"split over 2 ranks .* device_map='auto'"):
        wrap_model(model, tokenizer)


def test_weights_that_are_elsewhere_are_refused(model, tokenizer):
    model.encoder.layer[1].to("meta")
    with pytest.raises(ModelError, match=r"weights of the model are not in memory \(the first: encoder.layer.1"):
        wrap_model(model, tokenizer)
