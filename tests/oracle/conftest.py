"""A case is run and measured once, whatever number of tests look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

import attnengine as ae
from attnengine.opened import Run
from tests.oracle.models import CASES, Case
from tests.oracle.tables import Oracle, brute_force


@dataclass(frozen=True)
class Measured:
    """A case, what attnengine says of it and what it should say."""

    case: Case
    run: Run
    oracle: Oracle


@pytest.fixture(scope="session")
def run_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Run a case through ``ae.analyze``, with more settings if given."""

    def run(case: Case, **settings: Any) -> Run:
        folder = tmp_path_factory.mktemp("oracle")
        # As anyone makes it: transformers chooses the attention implementation, not we.
        model = case.make(None)
        return ae.analyze(model, case.reader(), case.documents(), output=folder, **(case.settings | settings))

    return run


@pytest.fixture(scope="session")
def measured(run_case: Callable[..., Run]) -> Callable[..., Measured]:
    """``measured(name)`` or ``measured(name, stride=…)``: run and oracle of a case, made once."""

    @cache
    def measure(name: str, **settings: Any) -> Measured:
        case = CASES[name]
        window = settings.get("window", case.window)
        case = replace(case, window=window, settings=case.settings | settings)
        return Measured(case, run_case(case), brute_force(case))

    return measure
