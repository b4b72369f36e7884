"""Windows cover every token once, carry the tokenizer's special tokens, and know what each token is."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from attnengine.bundled import bundled_model
from attnengine.corpus.plan import GROUPS, make_plan, pack, splitmix64
from attnengine.corpus.sources import documents_of
from attnengine.corpus.tokenise import NO_SENTENCE, punctuation_of, sentences_of, tokenise
from attnengine.corpus.windows import SpecialTokens, TextWindows, window_length
from attnengine.errors import CorpusError, PlanError

TEXTS = ["One two. Three, four! Five?", "A much longer text; it has (many) words. " * 12, "short"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model("minilm"))


def feed_of(tokenizer, texts=TEXTS, **options):
    documents = documents_of(texts)
    options = {"length": 16} | options
    return TextWindows(documents, tokenise(documents, tokenizer), SpecialTokens.of(tokenizer), **options)


def ids(feed, window):
    return feed.tokens([window])["id"][0].tolist()


def inner(feed, window):
    """The tokens of a window that come from the text."""
    tokens = feed.tokens([window])[0]
    return tokens[tokens["start"] >= 0]


def test_without_overlap_every_token_is_in_exactly_one_window(tokenizer):
    feed = feed_of(tokenizer)
    found = np.concatenate([inner(feed, window) for window in range(len(feed.n_tokens))])
    assert found.tobytes() == feed.stream.rows(0, len(feed.stream)).tobytes()
    assert feed.n_tokens.max() == 16


def test_a_window_reads_as_the_tokenizer_itself_would_write_it(tokenizer):
    feed = feed_of(tokenizer, length=64)
    assert ids(feed, 0) == tokenizer(TEXTS[0])["input_ids"]


@pytest.mark.parametrize("stride", [1, 5, 13, 14])
def test_with_overlap_every_token_is_counted_exactly_once(tokenizer, stride):
    feed = feed_of(tokenizer, stride=stride)
    counted = np.zeros(len(feed.stream), dtype=int)
    facts = feed.batch(range(len(feed.n_tokens)), "cpu").streams[""]
    for window, n in enumerate(feed.n_tokens.tolist()):
        rows = feed.stream.first[feed.document[window]] + feed.start[window] + np.arange(n - 2)
        counted[rows[facts.counted[window, 1 : n - 1].numpy()]] += 1
        assert facts.counted[window, [0, n - 1]].all()
    assert (counted == 1).all()


def test_facts_name_the_first_special_and_punctuation_tokens(tokenizer):
    feed = feed_of(tokenizer, ["One two. Three, four!"], length=64)
    facts = feed.batch([0], "cpu").streams[""]
    words = tokenizer.convert_ids_to_tokens(ids(feed, 0))
    assert words == ["[CLS]", "one", "two", ".", "three", ",", "four", "!", "[SEP]"]
    assert facts.classes["first"][0].nonzero().ravel().tolist() == [0]
    assert facts.classes["special"][0].nonzero().ravel().tolist() == [0, 8]
    assert facts.classes["punctuation"][0].nonzero().ravel().tolist() == [3, 5, 7]
    assert facts.sentence[0].tolist() == [NO_SENTENCE, 0, 0, 0, 1, 1, 1, 1, NO_SENTENCE]


def test_a_special_token_written_in_the_text_is_special_and_stands_in_no_sentence(tokenizer):
    feed = feed_of(tokenizer, ["One [SEP] two."], length=64)
    facts = feed.batch([0], "cpu").streams[""]
    assert facts.classes["special"][0].nonzero().ravel().tolist() == [0, 2, 5]
    assert facts.sentence[0].tolist() == [NO_SENTENCE, 0, NO_SENTENCE, 0, 0, NO_SENTENCE]


def test_padding_is_neither_real_nor_counted_nor_placed(tokenizer):
    feed = feed_of(tokenizer)
    short = int(feed.n_tokens.argmin())
    batch = feed.batch([int(feed.n_tokens.argmax()), short], "cpu")
    facts, n = batch.streams[""], int(feed.n_tokens[short])
    assert facts.real[1].sum() == n == batch.inputs["attention_mask"][1].sum()
    assert not facts.counted[1, n:].any()
    assert (facts.position[1, n:] == -1).all()
    assert not any(mask[1, n:].any() for mask in facts.classes.values())


def test_a_decoder_reads_the_window_shifted_by_its_start_token(tokenizer):
    feed = feed_of(tokenizer, decoder_start=7)
    batch = feed.batch([0], "cpu")
    shifted = [7, *ids(feed, 0)[:-1]]
    assert batch.inputs["decoder_input_ids"][0].tolist() == shifted
    assert batch.streams["decoder"].token_id[0].tolist() == shifted
    assert batch.streams["decoder"].sentence[0, 0] == NO_SENTENCE
    assert batch.streams["decoder"].counted[0].all()


def test_punctuation_and_sentences_follow_the_source_text():
    text = "Hi… «you»! a.b?\nNext"
    spans = np.asarray([[0, 2], [2, 3], [4, 5], [3, 5], [8, 10], [11, 14], [5, 6], [3, 4]])
    assert punctuation_of(text, spans).tolist() == [False, True, True, True, True, False, False, False]
    assert sentences_of("A b. C? D e.f", np.asarray([0, 2, 4, 5, 8, 10])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_window_longer_than_the_model_and_a_stride_that_skips_are_refused(tokenizer):
    assert window_length(None, 512) == 512
    assert window_length(None, None) == 1024
    with pytest.raises(PlanError, match="longer than the model's 512"):
        window_length(513, 512)
    with pytest.raises(PlanError, match="--stride must lie in 1 … 14"):
        feed_of(tokenizer, stride=15)
    with pytest.raises(PlanError, match="no room"):
        feed_of(tokenizer, length=2)
    with pytest.raises(CorpusError, match="no tokens"):
        tokenise(documents_of(["\u200b"]), tokenizer)


def test_batches_are_full_and_hold_every_window_once(tokenizer):
    lengths = np.asarray([3, 9, 2, 9, 5, 40])
    batches = pack(lengths, 20)
    assert sorted(window for batch in batches for window in batch) == list(range(6))
    assert all(len(batch) * lengths[batch[0]] <= 20 or len(batch) == 1 for batch in batches)
    assert all(lengths[batch[0]] == lengths[list(batch)].max() for batch in batches)


def plan_of(feed, **options):
    options = {"batch_tokens": 64, "shard_tokens": 100, "sample": 100, "seed": 0, "identity": {}} | options
    return make_plan(feed, **options)


def test_the_sample_is_whole_segments_that_do_not_depend_on_batches(tokenizer):
    feed = feed_of(tokenizer, length=100)
    one, other = plan_of(feed), plan_of(feed, batch_tokens=1000, shard_tokens=10)
    assert one.n_samples >= 100
    assert (one.sample_window == other.sample_window).all()
    assert (one.sample_position == other.sample_position).all()
    assert one.digest != other.digest
    assert (plan_of(feed, sample=0).n_samples) == 0
    assert plan_of(feed, seed=1).sample_position.tolist() != one.sample_position.tolist()


def test_groups_are_documents_while_there_are_few_and_hashes_beyond(tokenizer):
    few = feed_of(tokenizer)
    assert plan_of(few).group.tolist() == few.document.tolist()
    many = feed_of(tokenizer, [f"text number {i}" for i in range(GROUPS + 5)])
    plan = plan_of(many)
    assert plan.n_groups == GROUPS
    assert len(set(plan.group.tolist())) > 250


def test_splitmix64_gives_the_published_sequence():
    """The first outputs for seed 1234567, as in the reference implementation's test vectors."""
    state, out = 1234567, []
    for _ in range(3):
        out.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) & ((1 << 64) - 1)
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_batches_of_long_windows_stay_small_enough_for_a_dense_mask():
    lengths = np.full(40, 1024)
    batches = pack(lengths, 10**9)
    assert {len(batch) for batch in batches[:-1]} == {12}
    assert pack(np.asarray([8192, 8192]), 10**9) == ((0,), (1,))
