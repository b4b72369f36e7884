"""The one state of the explorer and the pure function that changes it.

Everything a person can do is an action; ``reduce(state, action)`` gives the next state. The state fits in a link
(:mod:`attnengine_explorer.url`), so that a page can be sent to a colleague, reloaded and walked back.

A view adds its fields to :class:`ViewState`, each one line with its default, its kind (:mod:`.fields`) and, where that
is shorter, its name in a link. That is all: :class:`Change` sets any of them, checked by their kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from attnengine_explorer.fields import (
    Between,
    Choice,
    Column,
    Filters,
    Head,
    Heads,
    Index,
    Kind,
    Number,
    OfType,
    Spans,
    Text,
)
from attnengine_explorer.points.lasso import LassoText
from attnengine_explorer.points.names import COLOUR_BY, LABELS, PROJECTIONS, SIZES

T = TypeVar("T")
#: The page views, in the order of their tabs and keys.
PAGE_VIEWS = ("overview", "clouds", "cloud", "sentence")
#: What the page view "sentence" shows of a sentence, in the order of its tabs.
SHEETS = ("head", "model", "heatmap", "neuron")
MAX_TEXT = 20_000
MAX_SEARCH = 200


def kept(default: T, kind: Kind, link: str = "") -> T:
    """A field of the state: what it starts as, what it may hold, and what it is called in a link."""
    return field(default=default, metadata={"kind": kind, "link": link})


@dataclass(frozen=True)
class ViewState:
    """What is on the screen. ``site`` and ``head`` are both None or both set: the open head.

    ``heads`` is the chosen set of heads, ``filters`` which heads are not dimmed. ``document`` is a row of the table
    ``documents``; ``token`` is a row of the table ``tokens``, the sample. ``text`` and ``text_b`` are what a person
    typed. ``threshold`` is the weight below which no line is drawn. ``rail`` is the column of heads on the left.
    ``facet`` says whether Overview shows the open head or compares all heads.

    Of a sentence: ``second`` says what the second text is, the other half of a pair, a sentence of its own beside the
    first, or what a decoder reads. ``doc_window`` is a window of the document, None that of the token. ``sheet`` is
    what is shown, ``between`` the sentences that lines join, ``special`` whether special tokens answer, ``picks``
    whether a click on a head adds it or picks it, ``pin`` the token that was clicked, on the side ``pin_side``.
    ``query_span`` and ``key_span`` are the part of a long text whose lines are drawn, ``part`` whether the model view
    has all heads or the chosen ones. ``neurons_by`` is the order of neurons, ``only_key`` the one key they are shown
    for. ``overlay`` "sentence" shows the sentence's tokens in the head's cloud.

    ``point_side`` says which of the two points of ``token`` is picked in clouds, ``lasso`` which points are selected
    (points/lasso.py); ``yaw`` and ``pitch`` turn a cloud of three ``dims``, in degrees.
    """

    run: int = kept(0, Index())
    view: str = kept("overview", Choice(PAGE_VIEWS))
    statistic: str = kept("entropy_normalized", Column(), "stat")
    show: str = kept("statistic", Choice(("statistic", "pattern", "cloud")))
    order: str = kept("head", Choice(("head", "value")))
    site: int | None = kept(None, Index(optional=True))
    head: int | None = kept(None, Index(optional=True))
    neuron_statistic: str = kept("score_variance_share", Column(), "neurons")
    neuron_order: str = kept("value", Choice(("neuron", "value")), "sort")
    color_by: str = kept("side", Choice(tuple(COLOUR_BY)), "color")
    facet: str = kept("head", Choice(("head", "heads")))
    x_statistic: str = kept("entropy", Column(), "x")
    y_statistic: str = kept("distance_mean", Column(), "y")
    map_by: str = kept("statistics", Choice(("statistics", "patterns", "profiles")), "map")
    example_of: str = kept("pair", Column(), "example")
    theme: str = kept("auto", Choice(("auto", "light", "dark")))
    rail: str = kept("open", Choice(("open", "folded")))
    heads: tuple[Head, ...] = kept((), Heads())
    filters: tuple[OfType | Between, ...] = kept((), Filters())
    document: int | None = kept(None, Index(optional=True, highest=10**9), "doc")
    token: int | None = kept(None, Index(optional=True, highest=10**9))
    text: str = kept("", Text(MAX_TEXT))
    text_b: str = kept("", Text(MAX_TEXT), "b")
    search: str = kept("", Text(MAX_SEARCH), "q")
    search_mode: str = kept("exact", Choice(("exact", "prefix", "regex")), "match")
    threshold: float = kept(0.0, Number(0, 1))
    second: str = kept("pair", Choice(("pair", "beside", "decoder")))
    doc_window: int | None = kept(None, Index(optional=True), "w")
    sheet: str = kept("head", Choice(SHEETS))
    between: str = kept("all", Choice(("all", "aa", "ab", "ba", "bb")))
    special: str = kept("shown", Choice(("shown", "hidden")))
    picks: str = kept("many", Choice(("many", "one")))
    pin_side: str = kept("query", Choice(("query", "key")), "pinned")
    pin: int | None = kept(None, Index(optional=True))
    query_span: tuple[int, int] | None = kept(None, Spans(), "rows")
    key_span: tuple[int, int] | None = kept(None, Spans(), "cols")
    part: str = kept("all", Choice(("all", "chosen")))
    overlay: str = kept("none", Choice(("none", "sentence")))
    point_side: str = kept("query", Choice(("query", "key")), "side")
    projection: str = kept("layout", Choice(PROJECTIONS))
    dims: str = kept("2", Choice(("2", "3")))
    yaw: int = kept(30, Index(highest=359))
    pitch: int = kept(20, Index(highest=359))
    size_by: str = kept("same", Choice(tuple(SIZES)), "size")
    labels: str = kept("clusters", Choice(tuple(LABELS)))
    lasso: str = kept("", LassoText())
    neurons_by: str = kept("row", Choice(("row", "text", "corpus", "number")), "by")
    only_key: int | None = kept(None, Index(optional=True), "only")

    @property
    def selected(self) -> Head | None:
        """The (site, head) that is open, if one is."""
        return None if self.site is None or self.head is None else (self.site, self.head)


#: What each field may hold, and what it is called in a link.
KINDS: dict[str, Kind] = {f.name: f.metadata["kind"] for f in fields(ViewState)}
LINK_NAMES: dict[str, str] = {f.name: f.metadata["link"] or f.name for f in fields(ViewState)}


@dataclass(frozen=True)
class Change:
    """Fields were set to new values: ``Change({"view": "cloud", "token": 12})``. The run is another page's."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class SelectHead:
    """A head was clicked, or reached with the arrow keys."""

    site: int
    head: int


@dataclass(frozen=True)
class ChooseHeads:
    """Heads were lassoed or shift-clicked: they become the chosen set, join it, leave it, or change sides."""

    heads: tuple[Head, ...]
    how: str = "replace"


@dataclass(frozen=True)
class Clear:
    """Esc: what is picked in the page view goes first, then the chosen heads, then the open head."""


@dataclass(frozen=True)
class Visit:
    """A link was followed: the back button, or a reload."""

    state: ViewState


Action = Change | SelectHead | ChooseHeads | Clear | Visit


def reduce(state: ViewState, action: Action) -> ViewState:
    """The next state. ValueError if the action asks for something that does not exist."""
    match action:
        case Change(values):
            return changed_to(state, values)
        case SelectHead(site, head):
            return changed_to(state, {"site": site, "head": head})
        case ChooseHeads(heads, how):
            return changed_to(state, {"heads": combined(state.heads, heads, how)})
        case Clear():
            return cleared(state)
        case Visit(other):
            return other
    raise ValueError(f"unknown action {action!r}")


#: What Esc lets go of in each page view, one at a time, before the chosen heads.
_PICKED = {"clouds": ("lasso",), "cloud": ("lasso", "token"), "sentence": ("pin",)}


def cleared(state: ViewState) -> ViewState:
    """``state`` without the innermost thing that is picked."""
    start = ViewState()
    for name in (*_PICKED.get(state.view, ()), "heads"):
        if getattr(state, name) != getattr(start, name):
            return replace(state, **{name: getattr(start, name)})
    return replace(state, site=None, head=None)


def changed_to(state: ViewState, values: Mapping[str, Any]) -> ViewState:
    """``state`` with these fields set, each as its kind allows."""
    unknown = [name for name in values if name not in KINDS or name == "run"]
    if unknown:
        raise ValueError(f"the state has no field {unknown[0]!r} to set")
    new = replace(state, **{name: checked(name, value) for name, value in values.items()})
    if (new.site is None) != (new.head is None):
        raise ValueError("a head needs its site, and a site its head")
    return new


def checked(name: str, value: Any) -> Any:
    """``value`` as the field ``name`` holds it, else ValueError."""
    try:
        return KINDS[name].check(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def combined(before: tuple[Head, ...], heads: tuple[Head, ...], how: str) -> tuple[Head, ...]:
    """A set of heads after others replaced it, were added, subtracted or toggled."""
    old, new = set(before), set(heads)
    sets = {"replace": new, "add": old | new, "subtract": old - new, "toggle": old ^ new}
    if how not in sets:
        raise ValueError(f"expected one of {', '.join(sets)}, got {how!r}")
    return tuple(sorted(sets[how]))


def changed(old: ViewState | None, new: ViewState, *names: str) -> bool:
    """Whether one of these fields differs, or nothing was drawn before."""
    return old is None or any(getattr(old, name) != getattr(new, name) for name in names)


@dataclass
class History:
    """Undo and redo over states. A step back keeps what was undone until something new is done."""

    past: list[ViewState] = field(default_factory=list)
    future: list[ViewState] = field(default_factory=list)
    limit: int = 100

    def record(self, before: ViewState) -> None:
        """``before`` was left for something new."""
        self.past = [*self.past, before][-self.limit :]
        self.future.clear()

    def undo(self, now: ViewState) -> ViewState:
        """The state before ``now``, or ``now`` where there is none."""
        if not self.past:
            return now
        self.future.append(now)
        return self.past.pop()

    def redo(self, now: ViewState) -> ViewState:
        """The state that was undone last, or ``now`` where there is none."""
        if not self.future:
            return now
        self.past.append(now)
        return self.future.pop()
