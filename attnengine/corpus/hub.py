"""Data sets of the Hugging Face hub, or in its folder formats, row by row: ``hf:NAME[:CONFIG][@SPLIT]``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnengine.corpus.documents import Document
from attnengine.corpus.rows import row_document, wanted
from attnengine.corpus.wording import said
from attnengine.errors import CorpusError

if TYPE_CHECKING:
    from attnengine.corpus.sources import SourceOptions

PREFIX = "hf:"
EXPECTED = "expected hf:NAME[:CONFIG][@SPLIT], as in hf:wikitext:wikitext-2-v1@test or hf:/a/folder@train"


@dataclass(frozen=True)
class HubName:
    """What a corpus argument asks of the hub; ``name`` may also be a local folder."""

    name: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, corpus: str) -> HubName:
        """Of ``hf:NAME[:CONFIG][@SPLIT]``; CorpusError if a part is empty."""
        rest, at, split = corpus.removeprefix(PREFIX).rpartition("@")
        name, colon, config = (rest if at else split).partition(":")
        if not name or (at and not split) or (colon and not config):
            raise CorpusError(f"{corpus!r} is no data set: {EXPECTED}")
        return cls(name, config or None, split if at else None)


def hub_documents(corpus: str, options: SourceOptions) -> Iterator[Document]:
    """One document a row, streamed; class labels by their names.

    Without a split it is "train", or the only one. CorpusError if `datasets` is not installed, the hub cannot be
    reached, or there is no such data set, configuration, split or column.
    """
    asked = HubName.parse(corpus)
    rows, split = _open(asked, corpus)
    where = f"{PREFIX}{asked.name}{f':{asked.config}' if asked.config else ''}@{split}"
    labels: dict[str, Any] = {}
    if rows.features is not None:
        columns = wanted(list(rows.features), where, options)
        rows = _undecoded(rows.select_columns(columns))
        labels = {name: kind for name, kind in rows.features.items() if hasattr(kind, "int2str")}
    with _one_line(corpus):
        for number, row in enumerate(rows):
            yield row_document(_named(row, labels), f"{where} row {number}", options)


def _named(row: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the names of its classes; a class below 0 is none."""
    found = dict(row)
    for name, kind in labels.items():
        found[name] = kind.int2str(row[name]) if isinstance(row.get(name), int) and row[name] >= 0 else None
    return found


def _open(asked: HubName, corpus: str) -> tuple[Any, str]:
    """(the rows as an iterable data set, its split)."""
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"{corpus} needs the package datasets: pip install 'attnengine[hf]'") from error
    with _one_line(corpus):
        folder = Path(asked.name)
        if any((folder / marker).is_file() for marker in ("state.json", "dataset_dict.json")):  # save_to_disk
            found = datasets.load_from_disk(asked.name)
        else:
            found = datasets.load_dataset(asked.name, asked.config, streaming=True)
    if not isinstance(found, dict):
        if asked.split is not None:
            raise CorpusError(f"{corpus}: this data set has no splits; leave out @{asked.split}")
        return found, "all"
    split = asked.split or ("train" if "train" in found or len(found) != 1 else next(iter(found)))
    if split not in found:
        raise CorpusError(f"{corpus}: no split {split!r}; expected one of {', '.join(map(str, found))}, as @SPLIT")
    return found[split], split


def _undecoded(rows: Any) -> Any:
    """Images as their files' bytes: they are kept like that, and decoded by our own rules."""
    import datasets

    for name, kind in rows.features.items():
        if isinstance(kind, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


@contextlib.contextmanager
def _one_line(corpus: str) -> Iterator[None]:
    """Whatever `datasets` and the network raise, as one line that names the data set."""
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        raise CorpusError(f"cannot read {corpus}: {said(error)}; {EXPECTED} (of the hub: with a network)") from error
