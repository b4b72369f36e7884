"""Pages with clouds, opened without a browser: act on them and read what their sources hold."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import ViewState

_COUNT = itertools.count()


def open_page(run: RunData, **state) -> Session:
    return open_state(run, ViewState(**state))


def open_state(run: RunData, state: ViewState) -> Session:
    return Session(Document(), run, state, [run.path])


def told(session: Session, name: str):
    return json.loads(session.wire.shown)["told"][name]


def act(session: Session, kind: str, **what) -> None:
    session.wire.act = json.dumps({"kind": kind, **what, "n": next(_COUNT)})


def data(session: Session, name: str):
    return session.document.get_model_by_name(name).data


def when(session: Session, name: str, holds: Callable[[Any], bool]) -> Any:
    """What was told of ``name`` once it ``holds``: a thread may have to find it out first."""
    end = time.monotonic() + 60
    while not holds(found := told(session, name)):
        assert time.monotonic() < end, f"{name} stayed {found}"
        time.sleep(0.01)
        later(session)
    return found


def later(session: Session) -> None:
    """Run what was put off until the next tick or some milliseconds."""
    while callbacks := session.document.session_callbacks:
        for callback in callbacks:
            session.document.callbacks.remove_session_callback(callback)
            callback.callback()
