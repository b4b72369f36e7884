"""The state: what each action changes, and that a link says all of it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine_explorer import url
from attnengine_explorer.fields import MAX_INDEX, Between, Choice, OfType
from attnengine_explorer.state import (
    KINDS,
    Change,
    ChooseHeads,
    Clear,
    History,
    SelectHead,
    ViewState,
    Visit,
    reduce,
)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True)
indices = st.integers(0, MAX_INDEX)
rows = st.none() | st.integers(0, 10**9)
choices = {name: st.sampled_from(kind.values) for name, kind in KINDS.items() if isinstance(kind, Choice)}
ends = st.none() | st.floats(allow_nan=False, allow_infinity=False).map(lambda end: end + 0.0)
filters = st.lists(st.builds(OfType, names) | st.builds(Between, names, ends, ends), max_size=9, unique=True)
heads = st.sets(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=60).map(lambda found: tuple(sorted(found)))
typed = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
spans = st.none() | st.tuples(st.integers(0, 999), st.integers(1, 99)).map(lambda at: (at[0], at[0] + at[1]))
states = st.builds(
    lambda pair, **rest: ViewState(site=pair and pair[0], head=pair and pair[1], **rest),
    pair=st.none() | st.tuples(indices, indices), run=indices, statistic=names, neuron_statistic=names,
    heads=heads, filters=filters.map(tuple), document=rows, token=rows, text=typed, text_b=typed, search=typed,
    threshold=st.floats(0, 1).map(lambda share: share + 0.0), doc_window=st.none() | indices, pin=st.none() | indices,
    query_span=spans, key_span=spans, **choices,
)  # fmt: skip


@given(states)
def test_a_link_round_trips_every_state(state):
    query = url.encode(state)
    assert url.decode(query) == url.decode("?" + query) == state
    assert len(query) <= url.MAX_QUERY
    assert url.left_out(state) == []


@given(states, st.integers(0, 20_000), st.sampled_from(["a", " ", "é", "字", "😀", "%"]), st.integers(0, 2_000))
def test_what_is_too_long_for_a_link_is_left_out_whole_and_named(state, length, character, n_heads):
    every_second = tuple((site, head) for site in range(40) for head in range(0, 100, 2))[:n_heads]
    long = replace(state, text=character * length, heads=every_second)
    query = url.encode(long)
    assert len(query) <= url.MAX_QUERY
    missing = url.left_out(long)
    words = {"the text": "text", "the second text": "text_b", "the search": "search", "the chosen heads": "heads",
             "the filters": "filters"}  # fmt: skip
    default = ViewState()
    assert url.decode(query) == replace(long, **{words[word]: getattr(default, words[word]) for word in missing})
    assert ("the text" in missing) >= (length > 2_000)
    assert url.of_request({key: [text.encode()] for key, text in parse_qsl(query)}) == url.decode(query)


def test_the_default_state_needs_no_query():
    assert url.encode(ViewState()) == ""
    assert url.decode("") == ViewState()


@given(st.text(max_size=300))
def test_any_text_decodes_to_a_state_that_encodes_again(query):
    state = url.decode(query)
    assert url.decode(url.encode(state)) == state


@pytest.mark.parametrize("query", [
    "site=1", "head=3", "site=-1&head=0", "site=1e3&head=0", "site=²&head=1", "theme=neon", "stat=<img src=x>",
    "stat=a.b", "show=PATTERN", "color=%00", "&" * 5000, "a=1&" * 200, "stat=" + "x" * 65, "site=9999999&head=0",
    "run=0x1", "%ff=%ff", "heads=0:1-999999~1:0-999999", "heads=0", "heads=0:-1", "heads=0:0-99999", "filters=type",
    "filters=entropy:1", "filters=entropy:nan:1", "filters=entropy:inf:", "filters=type:a b", "threshold=2",
    "threshold=nan", "threshold=1_0", "token=-1", "doc=1.5", "view=nowhere",
])  # fmt: skip
def test_a_hostile_link_falls_back_to_defaults(query):
    assert url.decode(query) == ViewState()


def test_one_bad_field_does_not_spoil_the_others():
    assert url.decode("theme=neon&site=2&head=5") == ViewState(site=2, head=5)


def test_actions_change_only_what_they_name():
    start = ViewState()
    assert reduce(start, SelectHead(2, 5)) == ViewState(site=2, head=5)
    assert reduce(start, Change({"statistic": "entropy"})) == ViewState(statistic="entropy")
    assert reduce(ViewState(site=2, head=5, theme="dark"), Clear()) == ViewState(theme="dark")
    assert reduce(start, Visit(ViewState(order="value"))) == ViewState(order="value")
    assert reduce(start, Change({"view": "cloud", "token": 12})) == ViewState(view="cloud", token=12)
    assert start == ViewState()


def test_a_set_of_heads_is_replaced_grown_shrunk_and_toggled():
    state = reduce(ViewState(), ChooseHeads(((1, 2), (0, 3))))
    assert state.heads == ((0, 3), (1, 2))
    assert reduce(state, ChooseHeads(((0, 0),), "add")).heads == ((0, 0), (0, 3), (1, 2))
    assert reduce(state, ChooseHeads(((0, 3), (9, 9)), "subtract")).heads == ((1, 2),)
    assert reduce(state, ChooseHeads(((0, 3), (9, 9)), "toggle")).heads == ((1, 2), (9, 9))
    assert url.encode(ViewState(heads=((0, 1), (0, 3), (0, 5), (0, 6), (0, 7), (2, 0)))) == "heads=0:1.3.5-7~2:0"


def test_esc_lets_go_of_the_chosen_heads_before_it_closes_the_head():
    state = ViewState(site=2, head=5, heads=((0, 1),))
    assert reduce(state, Clear()) == ViewState(site=2, head=5)
    assert reduce(reduce(state, Clear()), Clear()) == ViewState()


def test_esc_lets_go_of_what_is_picked_in_the_page_view_first():
    drawn = "2.5.layout.2.0.0|+aaaaaabbbbbbcccccc"
    state = ViewState(view="cloud", site=2, head=5, token=7, lasso=drawn, heads=((0, 1),))
    let_go = []
    for _ in range(4):
        before, state = state, reduce(state, Clear())
        let_go.append([name for name in vars(state) if getattr(state, name) != getattr(before, name)])
    assert let_go == [["lasso"], ["token"], ["heads"], ["site", "head"]]
    pinned = ViewState(view="sentence", site=2, head=5, token=7, pin=3)  # the token says which sentence: it stays
    assert reduce(pinned, Clear()) == ViewState(view="sentence", site=2, head=5, token=7)
    elsewhere = ViewState(view="overview", site=2, head=5, token=7, pin=3)
    assert reduce(elsewhere, Clear()) == ViewState(view="overview", token=7, pin=3)


def test_filters_come_as_lists_from_the_page_and_are_kept_once():
    offered = [["type", "induction"], ["entropy", 0, None], ["entropy", 0.0, None]]
    state = reduce(ViewState(), Change({"filters": offered}))
    assert state.filters == (OfType("induction"), Between("entropy", 0.0, None))
    assert url.encode(state) == "filters=type:induction,entropy:0.0:"


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert reduce(ViewState(), Change({"text": "a\ud800b\U0001f600"})).text == "a\ufffdb\U0001f600"


@pytest.mark.parametrize("action", [
    Change({"theme": "neon"}), Change({"statistic": "x y"}), Change({"site": "1"}), Change({"__class__": "x"}),
    Change({"run": 1}), Change({"site": 1}), Change({"text": "x" * 20_001}), Change({"heads": [[0]]}),
    Change({"heads": 3}), Change({"heads": [[0, 1, 2]]}), Change({"filters": [["entropy", "0", 1]]}),
    Change({"filters": [["entropy", float("nan"), 1]]}), Change({"filters": [["a b", 0, 1]]}),
    Change({"filters": [["e", 0, 1]] * 17}), Change({"threshold": -0.1}), Change({"token": True}),
    Change({"token": "1"}), ChooseHeads((), "steal"), SelectHead(-1, 0), SelectHead(0, MAX_INDEX + 1),
])  # fmt: skip
def test_an_impossible_action_is_refused(action):
    with pytest.raises(ValueError):  # noqa: PT011  each has its own message
        reduce(ViewState(), action)


@settings(max_examples=20)
@given(st.lists(states, min_size=1, max_size=6, unique=True))
def test_undo_walks_back_to_the_start_and_redo_to_the_end(path):
    history = History()
    for before in path[:-1]:
        history.record(before)
    now = path[-1]
    for expected in reversed(path[:-1]):
        now = history.undo(now)
        assert now == expected
    assert history.undo(now) == now
    for expected in path[1:]:
        now = history.redo(now)
        assert now == expected
    assert history.redo(now) == now


def test_something_new_forgets_what_was_undone():
    history = History()
    history.record(ViewState())
    back = history.undo(ViewState(theme="dark"))
    history.record(back)
    assert history.redo(ViewState(theme="light")) == ViewState(theme="light")
