"""attnengine: what every attention head of a transformer does, how its queries and keys do it, and where.

    import attnengine as ae
    run = ae.analyze(model, tokenizer, texts)   # or ae.open_run("RUN")
    run.heads                                   # a pandas table, every statistic with its standard error

Importing this loads neither torch nor transformers nor bokeh; they come when something needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnengine import errors as errors

if TYPE_CHECKING:
    from attnengine.front import analyze as analyze
    from attnengine.notebook import explore as explore
    from attnengine.notebook import head_view as head_view
    from attnengine.notebook import model_view as model_view
    from attnengine.notebook import neuron_view as neuron_view
    from attnengine.opened import Run as Run
    from attnengine.opened import open_run as open_run
    from attnengine.statistics.own import statistic as statistic

__all__ = [
    "Run",
    "analyze",
    "errors",
    "explore",
    "head_view",
    "model_view",
    "neuron_view",
    "open_run",
    "statistic",
]

_HOMES = {
    "analyze": "attnengine.front",
    "explore": "attnengine.notebook",
    "head_view": "attnengine.notebook",
    "model_view": "attnengine.notebook",
    "neuron_view": "attnengine.notebook",
    "open_run": "attnengine.opened",
    "Run": "attnengine.opened",
    "statistic": "attnengine.statistics.own",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnengine' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
