"""A pair of texts is one window, laid out and cut as its own tokenizer does it."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from attnengine.bundled import bundled_model
from attnengine.corpus.sources import documents_of
from attnengine.corpus.special_tokens import SpecialTokens
from attnengine.corpus.tokenise import NO_SENTENCE, tokenise
from attnengine.corpus.windows import TextWindows
from attnengine.errors import PlanError

PAIRS = [
    ("Is it raining?", "Yes. It is raining!"),
    ("one " * 5, "two " * 40),
    ("three " * 40, "four"),
    ("five " * 21, "six " * 21),
    ("seven " * 22, "eight " * 21),
    ("", "nine"),
    ("ten", ""),
]


@pytest.fixture(scope="module")
def bert():
    return AutoTokenizer.from_pretrained(bundled_model())


@pytest.fixture(scope="module")
def roberta():
    """A tokenizer that puts two separators between the texts and knows no token types."""
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()} | {"a", "b"})
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def feed_of(tokenizer, pairs=PAIRS, **options):
    documents = documents_of(pairs)
    inputs = frozenset({"input_ids", "attention_mask", "token_type_ids"})
    options = {"length": 64, "model_inputs": inputs, "pad_id": 0} | options
    return TextWindows(documents, tokenise(documents, tokenizer), SpecialTokens.of(tokenizer, pair=True), **options)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("length", [6, 7, 20, 31, 44, 45, 46, 64])
def test_a_pair_reads_as_its_tokenizer_writes_it_and_is_cut_like_longest_first(request, name, length):
    tokenizer = request.getfixturevalue(name)
    feed = feed_of(tokenizer, length=length)
    batch = feed.batch(range(len(PAIRS)), "cpu")
    for window, (a, b) in enumerate(PAIRS):
        given = {"truncation": "longest_first", "max_length": length, "return_token_type_ids": True}
        expected = tokenizer([a], [b], **given)  # as a batch: alone, an empty second text would count as none
        n = int(feed.n_tokens[window])
        assert batch.inputs["input_ids"][window, :n].tolist() == expected["input_ids"][0]
        assert batch.inputs["token_type_ids"][window, :n].tolist() == expected["token_type_ids"][0]
        assert batch.inputs["attention_mask"][window].sum() == n
        assert not batch.inputs["token_type_ids"][window, n:].any()


def test_what_is_cut_from_pairs_is_counted(bert):
    whole, cut = feed_of(bert, length=64), feed_of(bert, length=20)
    assert whole.left_out["shortened_pairs"] == 0
    lost = whole.n_tokens.astype(int) - cut.n_tokens
    assert cut.left_out["shortened_pairs"] == np.count_nonzero(lost) == 4
    assert cut.left_out["tokens_cut_from_pairs"] == lost.sum()


def test_the_sentence_of_a_token_is_the_text_it_stands_in(bert):
    feed = feed_of(bert)
    facts = feed.batch([0], "cpu").streams[""]
    words = bert.convert_ids_to_tokens(feed.tokens([0])["id"][0].tolist())
    first, last = words.index("[SEP]"), len(words) - 1
    expected = [0] * (first - 1), [1] * (last - first - 1)
    assert facts.sentence[0].tolist() == [NO_SENTENCE, *expected[0], NO_SENTENCE, *expected[1], NO_SENTENCE]
    assert facts.counted[0].all()


def test_places_of_tokens_count_in_both_texts_joined_by_a_line_feed(bert):
    feed = feed_of(bert)
    n = int(feed.n_tokens[0])
    table = feed.describe(np.zeros(n, np.int64), np.arange(n), text=True)
    text = "\n".join(PAIRS[0])
    inner = table[table.text_start >= 0]
    assert [text[a:b] for a, b in zip(inner.text_start, inner.text_end, strict=True)] == inner.text.tolist()
    assert "".join(inner.text) == text.replace(" ", "").replace("\n", "")
    assert table.text[table.is_special].tolist() == ["[CLS]", "[SEP]", "[SEP]"]


def test_a_stride_and_a_window_without_room_are_refused(bert):
    with pytest.raises(PlanError, match="--stride has no meaning for pairs"):
        feed_of(bert, stride=3)
    with pytest.raises(PlanError, match="no room"):
        feed_of(bert, length=4)


def test_reading_stops_when_the_windows_asked_for_are_full(bert):
    documents = documents_of([("word " * 500, "word " * 500)] * 3000)
    stream = tokenise(documents, bert, max_tokens=1000, longest=61)
    feed = TextWindows(documents, stream, SpecialTokens.of(bert, pair=True), length=64, max_tokens=1000)
    assert len(stream.second) < 2000
    assert len(feed.n_tokens) == 16
