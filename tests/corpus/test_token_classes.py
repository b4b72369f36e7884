"""A user's class of tokens is a mass of its own, decided by each token's source text alone."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from attnengine.bundled import bundled_model
from attnengine.corpus.sources import documents_of
from attnengine.corpus.special_tokens import SpecialTokens
from attnengine.corpus.token_classes import TokenClasses, check_classes, parse_classes
from attnengine.corpus.tokenise import tokenise
from attnengine.corpus.windows import TextWindows
from attnengine.errors import PlanError
from attnengine.run.settings import RunSettings


def test_the_whole_token_must_match_and_white_space_at_its_ends_does_not_count():
    text = "he the he he2 HE"
    spans = np.asarray([[0, 2], [3, 6], [6, 9], [10, 13], [14, 16], [0, 0]])
    classes = TokenClasses({"pronoun": "he|she", "any": r"(?i)[a-z]+", "nothing": ""})
    assert classes.bits(text, spans[:, 0], spans[:, 1]).tolist() == [3, 2, 3, 0, 2, 4]


@given(text=st.text(alphabet="ab1 é", max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_classes_agree_with_pythons_own_expressions(text, cuts):
    cuts = sorted(min(cut, len(text)) for cut in [0, *cuts])
    start, end = np.asarray(cuts[:-1], int), np.asarray(cuts[1:], int)
    patterns = {"letters": "[a-b]+", "digit": r"\d", "accent": "é.*"}
    expected = [
        sum(bool(re.fullmatch(pattern, text[a:b].strip())) << c for c, pattern in enumerate(patterns.values()))
        for a, b in zip(start, end, strict=True)
    ]
    assert TokenClasses(patterns).bits(text, start, end).tolist() == expected


def test_facts_and_the_sample_carry_the_class():
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    documents = documents_of(["In 1984, she had 2 cats."])
    stream = tokenise(documents, tokenizer, classes=TokenClasses({"digit": "[0-9]+", "pronoun": "she|he"}))
    feed = TextWindows(documents, stream, SpecialTokens.of(tokenizer), length=32)
    facts = feed.batch([0], "cpu").streams[""]
    words = tokenizer.convert_ids_to_tokens(feed.tokens([0])["id"][0].tolist())
    assert [w for w, is_digit in zip(words, facts.classes["digit"][0].tolist(), strict=True) if is_digit] == [
        "1984",
        "2",
    ]
    assert [w for w, here in zip(words, facts.classes["pronoun"][0].tolist(), strict=True) if here] == ["she"]
    table = feed.describe(np.zeros(len(words), np.int64), np.arange(len(words)), text=True)
    assert table.text[table.is_digit].tolist() == ["1984", "2"]
    assert table.text[table.is_punctuation].tolist() == [",", "."]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"Upper": "a"}, "lower-case letters"),
        ({"a b": "a"}, "lower-case letters"),
        ({"": "a"}, "lower-case letters"),
        ({"first": "a"}, "is taken"),
        ({"induction": "a"}, "is taken"),
        ({"x_se": "a"}, "is taken"),
        ({"x": "(a"}, "token class x: '\\(a' is no regular expression"),
        ({f"c{i}": "a" for i in range(25)}, "at most 24"),
    ],
)
def test_a_name_or_expression_that_cannot_be_is_refused(classes, words):
    with pytest.raises(ValueError, match=words):
        check_classes(classes)
    with pytest.raises(ValueError, match=words):
        RunSettings(token_class=classes)


def test_options_are_name_and_expression_and_a_name_stands_once():
    assert parse_classes(["eq==+", "digit=[0-9]=?"]) == {"eq": "=+", "digit": "[0-9]=?"}
    assert parse_classes(None) == {}
    with pytest.raises(ValueError, match="must be NAME=REGEX"):
        parse_classes(["digit"])
    with pytest.raises(ValueError, match="given twice"):
        parse_classes(["a=b", "a=c"])


def test_an_expression_that_would_never_end_is_stopped(monkeypatch):
    monkeypatch.setattr("attnengine.corpus.token_classes.PATIENCE", 0.05)
    word = "a" * 60 + "!"
    with pytest.raises(PlanError, match=r"takes more than 0.05 s on the token 'aaaa"):
        TokenClasses({"bad": "(a|aa)+$"}).bits(word, np.asarray([0]), np.asarray([len(word)]))
