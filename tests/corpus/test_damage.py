"""A corpus cut, flipped or overwritten anywhere gives documents or one line that names it; never a traceback."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine.corpus.sources import SourceOptions, read_corpus
from attnengine.errors import CorpusError
from tests.corpus.corpora import FORMATS

WHOLE = {name: make() for name, make in FORMATS.items()}
#: Formats that carry a checksum over what they say: damage there can never go unseen.
CHECKED = [name for name in FORMATS if name.endswith((".gz", ".tgz"))]


def said(path):
    return [(d.parts, d.picture().tobytes() if d.image is not None else None) for d in read_corpus(str(path), DEFAULT)]


DEFAULT = SourceOptions()


@st.composite
def damaged(draw):
    """(file name, its bytes with one kind of damage)."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    data = bytearray(WHOLE[name])
    place = st.integers(0, len(data) - 1)
    kind = draw(st.sampled_from(["cut", "flip", "write", "noise"]))
    if kind == "cut":
        del data[draw(place) :]
    elif kind == "flip":
        for at in draw(st.lists(place, min_size=1, max_size=3)):
            data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "write":
        at = draw(place)
        data[at : at + draw(st.integers(0, 64))] = draw(st.binary(max_size=64))
    else:
        data = bytearray(draw(st.binary(max_size=400)))
    return name, bytes(data)


def holds(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    try:
        found = said(path)
    except CorpusError as error:
        message = str(error)
        assert name in message
        assert message.isprintable()
        assert len(message) < 700
    else:
        assert found
        assert all(parts != ("",) or picture for parts, picture in found)
        if name in CHECKED and data != WHOLE[name]:
            path.write_bytes(WHOLE[name])
            assert found == said(path)  # what differs is then no more than the header's date or name


@settings(max_examples=50)
@given(case=damaged())
def test_damage_anywhere_gives_documents_or_one_line(tmp_path_factory, case):
    holds(tmp_path_factory.getbasetemp(), *case)


@pytest.mark.acceptance
@settings(max_examples=1000)
@given(case=damaged())
def test_a_thousand_damaged_corpora_give_documents_or_one_line(tmp_path_factory, case):
    holds(tmp_path_factory.getbasetemp(), *case)
