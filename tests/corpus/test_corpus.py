"""A corpus is read once and in turn; what it says is on disk, comes back unchanged, and never piles up in memory."""

import multiprocessing
import pickle
import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from attnengine.bundled import bundled_model
from attnengine.corpus.documents import Corpus, Document
from attnengine.corpus.layout import cut_texts, longest_first
from attnengine.corpus.sources import SourceOptions, documents_of, read_corpus
from attnengine.corpus.special_tokens import SpecialTokens
from attnengine.corpus.spool import Spool
from attnengine.corpus.tokenise import tokenise
from attnengine.corpus.windows import TextWindows
from attnengine.errors import CorpusError
from tests.corpus import corpora


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model())


@given(pieces=st.lists(st.binary(max_size=50), max_size=20))
def test_a_spool_gives_back_what_it_was_given_while_it_still_grows(pieces):
    spool, whole = Spool(), b""
    for piece in pieces:
        assert spool.append(piece) == len(whole)
        whole += piece
        assert spool.read(len(whole) // 2, len(whole) - len(whole) // 2) == whole[len(whole) // 2 :]
    assert len(spool) == len(whole)


@pytest.mark.parametrize("how", ["spawned", "elsewhere"])
def test_windows_reach_a_worker_process_which_can_make_batches(tokenizer, how):
    corpus = documents_of(["one two three", "four"])
    feed = TextWindows(corpus, tokenise(corpus, tokenizer), SpecialTokens.of(tokenizer), length=16)
    expected = feed.tokens([0])["id"].tolist(), corpus[0].digest
    if how == "elsewhere":
        other = pickle.loads(pickle.dumps(feed))
        assert (other.tokens([0])["id"].tolist(), other.documents[0].digest) == expected
        with pytest.raises(CorpusError, match="temporary file"):
            _ = other.documents[0].text
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=corpora.first_ids, args=(feed, theirs))
    worker.start()
    theirs.close()  # so that a worker that dies is an error here, not a wait without end
    assert ours.recv() == expected
    worker.join()


def test_a_kept_document_equals_the_one_that_was_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Zeile {i} ü\n" for i in range(100)))
    corpus = read_corpus(str(path), SourceOptions("line"))
    fresh = list(corpus)
    path.unlink()
    assert len(corpus) == 100
    for kept, read in zip(corpus, fresh, strict=True):
        for name in ("source", "byte_start", "byte_end", "text", "parts", "label", "digest", "is_pair"):
            assert getattr(kept, name) == getattr(read, name)
    assert corpus[-1].text == "Zeile 99 ü\n"


def test_a_source_is_read_no_further_than_it_is_asked_for(tokenizer):
    def endless():
        n = 0
        while True:
            yield Document(f"item {n}", 0, 0, f"number {n} " * 50)
            n += 1

    corpus = Corpus(endless(), "endless")
    stream = tokenise(corpus, tokenizer, max_tokens=5000)
    feed = TextWindows(corpus, stream, SpecialTokens.of(tokenizer), length=64, max_tokens=5000)
    assert 5000 <= feed.n_tokens.sum() < 5064
    assert len(feed.documents) == feed.document.max() + 1 < len(corpus)
    assert feed.documents[3].text.startswith("number 3 ")


def test_a_corpus_of_many_tokens_takes_little_memory(tokenizer):
    """Tokens and texts stay out of memory: 400 characters and 160 tokens a document, under 500 bytes kept of them."""
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 6

    def kept(documents):
        tracemalloc.start()
        corpus = Corpus((Document("same", 0, 0, f"{text}{i}") for i in range(documents)), "made")
        stream = tokenise(corpus, tokenizer)
        feed = TextWindows(corpus, stream, SpecialTokens.of(tokenizer), length=512)
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now, len(feed.stream)

    kept(10)
    (small, few), (large, many) = kept(100), kept(600)
    assert many - few > 50_000
    assert (large - small) / 500 < 500


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8), room=st.integers(1, 12), stride=st.integers(1, 12))
def test_windows_are_those_a_plain_loop_cuts_and_count_each_token_once(lengths, room, stride):
    stride = min(stride, room)
    first = np.cumsum([0, *lengths])
    found = cut_texts(first, room, stride)
    expected = []
    for document, n in enumerate(lengths):
        at = 0
        while at < n:
            expected.append((document, first[document] + at, min(room, n - at), room - stride if at else 0))
            if at + room >= n:
                break
            at += stride
    assert list(zip(found.document, found.begin, found.a, found.context, strict=True)) == expected
    counted = np.zeros(first[-1], int)
    for begin, a, context in zip(found.begin, found.a, found.context, strict=True):
        counted[begin + context : begin + a] += 1
    assert (counted == 1).all()


@given(a=st.integers(0, 30), b=st.integers(0, 30), room=st.integers(2, 40))
def test_pairs_lose_tokens_one_by_one_from_the_longer_text(a, b, room):
    kept_a, kept_b = (int(n[0]) for n in longest_first(np.asarray([a]), np.asarray([b]), room))
    loop_a, loop_b = a, b
    while loop_a + loop_b > room:
        if loop_a > loop_b:
            loop_a -= 1
        else:
            loop_b -= 1
    assert kept_a + kept_b == loop_a + loop_b
    assert {kept_a, kept_b} == {loop_a, loop_b}  # the odd token: the longer text's, as in tokenizers


def test_the_disk_for_temporary_files_being_full_is_said(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    spool = Spool()
    spool.append(b"x" * 100)
    monkeypatch.setattr(spool, "_file", types.SimpleNamespace(write=full, flush=full))
    for attempt in (lambda: spool.read(0, 10), lambda: spool.append(b"x")):
        with pytest.raises(CorpusError, match=r"No space left on device.*TMPDIR"):
            attempt()


def test_documents_without_a_token_are_counted(tokenizer):
    documents = documents_of(["a", "\u200b", "b"])
    feed = TextWindows(documents, tokenise(documents, tokenizer), SpecialTokens.of(tokenizer), length=16)
    assert feed.left_out == {"blank_documents": 0, "ignored_files": 0, "documents_without_tokens": 1}
