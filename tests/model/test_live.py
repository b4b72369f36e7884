"""A sentence through a model, against the oracle: eager attention, hooks on the projections, and fp64 by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers as tk
import torch
import transformers as tf

from attnengine.corpus.documents import Document
from attnengine.model.live import LONGEST, look, look_at
from attnengine.model.load import LoadedModel, wrap_model
from attnengine.model.sentence import Sentence
from attnengine_kernels import reference
from attnengine_kernels.call import AttentionCall
from tests.model.families import FAMILIES, TEXT, VOCABULARY, build
from tests.oracle import eager
from tests.oracle.models import CASES, byte_tokenizer, random_model
from tests.oracle.texts import LONG, MIDDLE, SHORT

Array = np.ndarray


@cache
def loaded_case(name: str) -> LoadedModel:
    return wrap_model(CASES[name].make(None), CASES[name].reader())


@cache
def asked(name: str, document: int) -> tuple[Sentence, list[list[eager.Head]], Any]:
    """One document of a case as we look at it, what the oracle says of its first window, and that window."""
    case = CASES[name]
    window = next(window for window in eager.windows_of(case) if window.document == document and window.start == 0)
    given = case.documents()[document]
    content = {"image": given} if case.grid else {"content": given}
    sentence = look_at(
        loaded_case(name), Document("one", 0, 0, **content), length=case.settings.get("window", case.window)
    )
    return sentence, eager.attend(case, case.make("eager"), window), window


def apart(ours: Array, theirs: Array) -> float:
    """The largest difference, of numbers above 1 relative to the largest: the oracle's forward is fp32 as ours is."""
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("document", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_vectors_scores_patterns_sinks_and_products_are_the_oracles_in_fp64(name: str, document: int) -> None:
    sentence, calls, _ = asked(name, document)
    assert len(sentence.attentions) == len(calls)
    for ours, heads in zip(sentence.attentions, calls, strict=True):
        assert ours.query.dtype == ours.key.dtype == np.float32
        for h, head in enumerate(heads):
            assert apart(ours.queries_of(h), head.query) <= 1e-5
            assert apart(ours.keys_of(h), head.key) <= 1e-5
            score = ours.score(h)
            assert (np.isfinite(score) == head.visible).all()
            assert apart(score[head.visible], head.score[head.visible]) <= 1e-5
            pattern = ours.pattern(h)
            assert pattern.dtype == np.float64
            assert np.abs(pattern - head.pattern).max() <= 1e-5
            assert (pattern[~head.visible] == 0).all()
            sinks = ours.sink_mass(h)
            assert np.abs(sinks - [head.sink_mass(i) for i in range(len(score))]).max() <= 1e-5
            assert np.abs(pattern.sum(axis=1) + sinks - 1).max() <= 1e-12
            row = len(score) - 1
            products = ours.products(h, row)
            assert apart(products, head.query[row] * head.key) <= 1e-5
            if ours.site.softcap is None and ours.bias is None:
                seen = head.visible[row]
                assert np.abs(head.scale * products.sum(axis=1) - score[row])[seen].max() <= 1e-10


@pytest.mark.parametrize("name", CASES)
def test_scores_and_patterns_are_the_fp64_reference_of_the_same_vectors(name: str) -> None:
    sentence, _, _ = asked(name, 2)
    for ours in sentence.attentions:
        rows = np.arange(ours.shape[0])
        bias = ours.bias and np.stack([ours.bias.rows(h, rows, ours.shape[1]) for h in range(len(ours.query))])
        query, key, lo, hi = (torch.from_numpy(array)[None] for array in (ours.query, ours.key, ours.lo, ours.hi))
        call = AttentionCall(
            query, key, key, lo, hi, ours.site.scale, ours.site.softcap,
            None if ours.sink is None else torch.from_numpy(ours.sink),
            None if bias is None else torch.from_numpy(bias)[None],
        )  # fmt: skip
        dense = reference.pattern(call)
        for h in range(len(ours.query)):
            assert np.abs(ours.pattern(h) - dense.p[0, h].numpy()).max() <= 1e-12
            assert np.abs(ours.lse(h) - dense.lse[0, h].numpy()).max() <= 1e-12
            seen = ours.visible(None, h)
            assert np.abs(ours.score(h)[seen] - dense.score[0, h].numpy()[seen]).max() <= 1e-12


@pytest.mark.parametrize("name", ["minilm", "gemma2", "gpt_oss", "t5"])
def test_some_rows_are_the_same_rows_of_all(name: str) -> None:
    sentence, _, _ = asked(name, 0)
    for call in sentence.attentions:
        some = np.array([5, 0, 17])
        # A product of matrices may sum in another order when it has fewer rows.
        assert np.abs(call.pattern(1, some) - call.pattern(1)[some]).max() <= 1e-13
        assert np.abs(call.pattern(1, slice(3, 9)) - call.pattern(1)[3:9]).max() <= 1e-13
        assert np.array_equal(call.visible(some, 1), call.visible(None, 1)[some])
        whole = call.lse(1)
        assert np.abs(call.lse(1, some) - whole[some]).max() <= 1e-12
        assert np.abs(np.exp(call.score(1) - whole[:, None]) - call.pattern(1)).max() <= 1e-12


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].grid is None])
def test_tokens_say_which_characters_they_stand_for_and_which_are_special(name: str) -> None:
    sentence, _, window = asked(name, 2)
    assert sentence.text_b is None
    assert set(sentence.streams) == set(window.streams)
    for stack, ours in sentence.streams.items():
        theirs = window.streams[stack]
        assert ours.ids.tolist() == theirs.ids
        assert ours.special.tolist() == theirs.special
        assert (ours.segment == 0).all()
        for text, a, b in zip(ours.texts, ours.start, ours.end, strict=True):
            assert text
            assert a < 0 or text == sentence.text[a:b]
        if theirs.spans is not None:
            assert list(zip(ours.start.tolist(), ours.end.tolist(), strict=True)) == theirs.spans


def test_cross_attention_asks_with_the_decoders_tokens_and_answers_with_the_encoders() -> None:
    loaded = loaded_case("bart")
    sentence = look(loaded, MIDDLE, decoder_text=SHORT)
    cross = next(call for call in sentence.attentions if call.site.kind == "cross")
    decoder, encoder = sentence.query_tokens(cross.site.site), sentence.key_tokens(cross.site.site)
    assert cross.shape == (len(decoder), len(encoder))
    assert "".join(encoder.texts[1:-1]) == MIDDLE
    assert "".join(decoder.texts[2:]) == SHORT  # the start token, the text's own <s>, and its </s> shifted out
    assert sentence.text == MIDDLE
    model, reader = CASES["bart"].make("eager"), CASES["bart"].reader()
    both = reader([MIDDLE, SHORT])["input_ids"]
    with torch.inference_mode():
        outputs = model(
            input_ids=torch.tensor([both[0]]), decoder_input_ids=torch.tensor([[2, *both[1][:-1]]]),
            output_attentions=True,
        )  # fmt: skip
    theirs = outputs.cross_attentions[cross.site.layer][0].double().numpy()
    assert max(np.abs(cross.pattern(h) - theirs[h]).max() for h in range(4)) <= 1e-5


def test_a_pair_is_laid_out_as_its_tokenizer_does_it_and_every_token_belongs_to_a_text() -> None:
    first, second = "The cat sat on the mat.", "It purred!"
    sentence = look(loaded_case("minilm"), first, second)
    tokens = sentence.streams[""]
    reader = CASES["minilm"].reader()
    encoded = reader(first, second)
    assert tokens.ids.tolist() == encoded["input_ids"]
    assert tokens.segment.tolist() == encoded["token_type_ids"]  # BERT's types are what "sentence A" means
    assert (sentence.text, sentence.text_b) == (first, second)
    assert tokens.is_pair
    assert tokens.texts[0] == "[CLS]"
    assert [tokens.source[a:b] for a, b in zip(tokens.start, tokens.end, strict=True) if a >= 0] == [
        text for text, special in zip(tokens.texts, tokens.special, strict=True) if not special
    ]
    with torch.inference_mode():
        outputs = CASES["minilm"].make("eager")(
            **{name: torch.tensor([values]) for name, values in encoded.items()}, output_attentions=True
        )
    for call in sentence.attentions:
        theirs = outputs.attentions[call.site.layer][0].double().numpy()
        assert max(np.abs(call.pattern(h) - theirs[h]).max() for h in range(12)) <= 1e-5


@cache
def word_tokenizer() -> Any:
    """A word a token, few enough words for the tiny families."""
    words = sorted({word for word, _ in tk.pre_tokenizers.Whitespace().pre_tokenize_str(LONG)})
    names = ["<pad>", "<s>", "</s>", "<unk>", *words][:VOCABULARY]
    model = tk.Tokenizer(tk.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    model.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("name", TEXT)
def test_every_family_of_text_shows_its_own_eager_patterns(name: str) -> None:
    text = " ".join(LONG.split()[:24])
    sentence = look(wrap_model(build(name), word_tokenizer()), text)
    ids = sentence.streams[""].ids
    model = build(name)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        theirs = model(input_ids=torch.from_numpy(ids)[None], output_attentions=True, use_cache=False).attentions
    assert len(sentence.attentions) == FAMILIES[name].calls
    for call, eager_pattern in zip(sentence.attentions, theirs, strict=True):
        for h in range(4):
            assert np.abs(call.pattern(h) - eager_pattern[0, h].double().numpy()).max() <= 1e-5


def test_a_long_text_keeps_one_number_an_offset_for_a_relative_bias_and_not_a_matrix_a_head() -> None:
    sentence = look(loaded_case("t5"), " ".join([LONG] * 8)[:4400])
    n = len(sentence.streams["encoder"])
    assert n > 1000
    biased = [call for call in sentence.attentions if call.bias is not None]
    assert {call.site.stack for call in biased} == {"encoder", "decoder"}
    for call in biased:
        assert call.bias is not None
        assert call.bias.by_offset
        assert call.bias.values.shape == (4, 2 * n - 1)
    assert len({id(call.bias) for call in biased}) == 2  # the layers of a stack share theirs
    assert sentence.nbytes < 6 * 2 * 4 * n * 8 * 4 + 2 * 4 * 2 * n * 4 + 1
    assert biased[0].pattern(2, slice(0, 3)).shape == (3, n)


class StopHereError(Exception):
    """Raised by the test inside the forward."""


def test_what_a_callback_raises_stops_the_forward_and_leaves_the_model_as_it_was() -> None:
    loaded = loaded_case("gpt2")
    before = loaded.model.config._attn_implementation
    seen = []

    def stop(site: Any) -> None:
        seen.append(site.site)
        if site.site == 1:
            raise StopHereError

    with pytest.raises(StopHereError):
        look(loaded, SHORT, on_site=stop)
    assert seen == [0, 1]
    assert loaded.model.config._attn_implementation == before
    assert len(look(loaded, SHORT).attentions) == 2


def test_text_that_cannot_be_looked_at_says_what_was_expected() -> None:
    loaded = loaded_case("gpt2")
    with pytest.raises(ValueError, match="no text to look at; type a sentence"):
        look(loaded, " \n")
    with pytest.raises(ValueError, match="character 4 of the text is half a surrogate pair"):
        look(loaded, "what\ud800")
    with pytest.raises(ValueError, match=r"the text has 1,\d+ tokens, expected at most 320; shorten it"):
        look(loaded, LONG * 5)
    with pytest.raises(ValueError, match="GPT2Model has no decoder"):
        look(loaded, SHORT, decoder_text=SHORT)
    with pytest.raises(ValueError, match="ViTModel reads image, got text"):
        look(loaded_case("vit"), SHORT)
    with pytest.raises(ValueError, match="one has windows 0 to 0, got 1"):
        look_at(loaded, Document("one", 0, 0, SHORT), 1)


def test_two_thousand_tokens_fit_and_are_asked_row_by_row() -> None:
    config = {"vocab_size": 330, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LONGEST}
    model = random_model("GPT2Model", lambda: tf.GPT2Config(**config, bos_token_id=1, eos_token_id=2), 1)(None)
    sentence = look(wrap_model(model, byte_tokenizer()), " ".join([LONG] * 9))
    n = len(sentence.streams[""])
    assert n > 2000
    assert sentence.nbytes == 2 * 2 * 32 * n * 4
    pattern = sentence.attentions[1].pattern(3, np.array([n - 1]))
    assert pattern.shape == (1, n)
    assert pattern.sum() == pytest.approx(1, abs=1e-12)
