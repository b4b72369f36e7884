"""The state: what each action changes, and that a link says all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnengine_explorer import url
from attnengine_explorer.state import (
    CHOICES,
    MAX_INDEX,
    Choose,
    Clear,
    History,
    SelectHead,
    ViewState,
    Visit,
    reduce,
)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True)
indices = st.integers(0, MAX_INDEX)
choices = {name: st.sampled_from(values) for name, values in CHOICES.items()}
states = st.builds(
    lambda pair, **rest: ViewState(site=pair and pair[0], head=pair and pair[1], **rest),
    pair=st.none() | st.tuples(indices, indices), run=indices, statistic=names, neuron_statistic=names, **choices,
)  # fmt: skip


@given(states)
def test_a_link_round_trips_every_state(state):
    query = url.encode(state)
    assert url.decode(query) == url.decode("?" + query) == state
    assert len(query) < url.MAX_QUERY


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
    "run=0x1", "%ff=%ff",
])  # fmt: skip
def test_a_hostile_link_falls_back_to_defaults(query):
    assert url.decode(query) == ViewState()


def test_one_bad_field_does_not_spoil_the_others():
    assert url.decode("theme=neon&site=2&head=5") == ViewState(site=2, head=5)


def test_actions_change_only_what_they_name():
    start = ViewState()
    assert reduce(start, SelectHead(2, 5)) == ViewState(site=2, head=5)
    assert reduce(start, Choose("statistic", "entropy")) == ViewState(statistic="entropy")
    assert reduce(ViewState(site=2, head=5, theme="dark"), Clear()) == ViewState(theme="dark")
    assert reduce(start, Visit(ViewState(order="value"))) == ViewState(order="value")
    assert start == ViewState()


@pytest.mark.parametrize("action", [
    Choose("theme", "neon"), Choose("statistic", "x y"), Choose("site", "1"), Choose("__class__", "x"),
    Choose("run", "1"), SelectHead(-1, 0), SelectHead(0, MAX_INDEX + 1),
])  # fmt: skip
def test_an_impossible_action_is_refused(action):
    with pytest.raises(ValueError):  # noqa: PT011  each has its own message
        reduce(ViewState(), action)


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
