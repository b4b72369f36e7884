"""The model of a run, loaded when the first sentence is asked for, and the sentences asked lately.

One studio a run serves all its sessions, from any thread. torch is imported here and nowhere else in the explorer, at
the first sentence.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnengine.model.sentence import Sentence
from attnengine.opened import Run
from attnengine_explorer.jobs import Ticket

if TYPE_CHECKING:
    from attnengine.model.load import LoadedModel

#: Bytes of vectors that are kept of sentences asked before: a step back is then at once.
KEEP = 256 * 2**20


@dataclass(frozen=True)
class Typed:
    """A text a person typed: alone, as a pair with a second one, or with what an encoder–decoder's decoder reads."""

    text: str
    text_b: str | None = None
    decoder_text: str | None = None


@dataclass(frozen=True)
class Stored:
    """Window number ``window`` of a document of the run's corpus."""

    document: int
    window: int = 0


Asked = Typed | Stored


class Studio:
    """Makes sentences of one run, one at a time, and remembers the last ones."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._turn = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._kept: OrderedDict[Asked, Sentence] = OrderedDict()

    def known(self, asked: Asked) -> Sentence | None:
        """The sentence if it was made lately."""
        return self._kept.get(asked)

    def make(self, asked: Asked, ticket: Ticket) -> Sentence:
        """The sentence, made now if need be. Raises AttnEngineError or ValueError, in words for the person who asked.

        It stops between layers where the ticket is given up, and leaves the model as it was.
        """
        ticket.reach("waiting for the model", 0.0)
        with ticket.turn(self._turn):
            found = self._kept.pop(asked, None)
            if found is None:
                if self._loaded is None:
                    ticket.reach("loading the model", 0.0)
                    self._loaded = self._load()
                    ticket.reach("loading the model", 0.1)
                found = self._look(self._loaded, asked, ticket)
            self._keep(asked, found)
            return found

    def _load(self) -> LoadedModel:
        from attnengine.model.of_run import load_model_of

        return load_model_of(self.run)

    def _look(self, loaded: LoadedModel, asked: Asked, ticket: Ticket) -> Sentence:
        from attnengine.model.live import look, look_at

        n_sites = max(len(self.run.sites), 1)

        def on_site(site: Any) -> None:
            ticket.reach(f"layer {site.site + 1} of {n_sites}", 0.1 + 0.9 * min(site.site / n_sites, 1.0))

        if isinstance(asked, Typed):
            bos = self._settings()["bos"]
            return look(loaded, asked.text, asked.text_b, decoder_text=asked.decoder_text, bos=bos, on_site=on_site)
        from attnengine.corpus.read_back import read_back

        ticket.reach("reading the document", 0.1)
        document = read_back(self.run, asked.document)
        return look_at(loaded, document, asked.window, on_site=on_site, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """How the run cut its windows; what a manifest does not say is as a run has it by default."""
        told = self.run.manifest.get("settings")
        told = told if isinstance(told, dict) else {}
        lengths = {"length": told.get("window"), "stride": told.get("stride")}
        settings: dict[str, Any] = {name: n if type(n) is int and n > 0 else None for name, n in lengths.items()}
        return settings | {"bos": told["bos"] if told.get("bos") in ("auto", "always", "never") else "auto"}

    def _keep(self, asked: Asked, sentence: Sentence) -> None:
        self._kept[asked] = sentence
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > KEEP:
            self._kept.popitem(last=False)
