"""Tokens found by text, prefix and pattern; patterns that would never end; marks that would be obeyed."""

from __future__ import annotations

import time

import pytest

from attnengine_explorer.points.search import Vocabulary
from attnengine_explorer.points.wording import visible


def vocabulary(*texts: str | None) -> Vocabulary:
    import pyarrow as pa

    return Vocabulary(pa.array(texts, pa.string()))


def test_search_finds_by_text_and_overlooks_what_tokenizers_put_before_a_word():
    words = vocabulary("the", " the", "The", "##the", "then", "other", None, "the")
    assert words.find("the", "exact").tolist() == [True, True, True, True, False, False, False, True]
    assert words.find("The", "exact").tolist() == [False, False, True, False, False, False, False, False]
    assert words.find(" the", "exact").tolist() == [False, True, False, False, False, False, False, False]
    assert words.find("the", "prefix").tolist() == [True, True, True, True, True, False, False, True]
    assert words.find("^the$|oth", "regex").tolist() == [True, False, True, False, False, True, False, True]
    assert vocabulary(None, None).find("x", "exact").tolist() == [False, False]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", "a{1,500}a{1,500}$", "(?:a?){30}a{30}"])
def test_no_pattern_freezes_the_search(pattern):
    words = vocabulary(*("a" * 60 + str(i) for i in range(2000)), "a" * 10_000)
    begin = time.process_time()
    try:
        words.find(pattern, "regex")
    except ValueError as refused:
        assert "regular expression" in str(refused)  # noqa: PT017  refusing is as good as answering
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("pattern", ["", "x" * 201, "\ud800", "(", "(?=a)"])
def test_a_pattern_that_cannot_be_searched_says_why_in_one_line(pattern):
    with pytest.raises(ValueError, match=r"expected|surrogate|regular expression") as caught:
        vocabulary("a").find(pattern, "regex")
    assert "\n" not in str(caught.value)


def test_control_and_direction_marks_of_a_token_are_shown_not_obeyed():
    assert visible("a\u202eb\x00c\n") == "a◌b◌c↵"
    assert len(visible("x" * 10_000)) == 40
    assert visible(None) == "(text not kept)"
