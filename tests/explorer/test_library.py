"""Several runs: damaged ones beside whole ones, and one that is still going."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bokeh.document import Document

from attnengine.errors import RunFormatError
from attnengine_explorer.growing import how_far, look, waiting
from attnengine_explorer.library import Library, is_going
from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import ViewState
from tests.explorer import growing_run
from tests.explorer.conftest import Served
from tests.explorer.test_server import get


@pytest.fixture
def going(tmp_path):
    return growing_run.growing(tmp_path / "going")


def test_runs_are_opened_once_and_again_when_their_folder_changed(runs, tmp_path):
    path = shutil.copytree(runs["core"], tmp_path / "copy")
    library = Library([path, runs["bert_like"]])
    first = library.open(0)
    assert library.open(0) is first
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert first.outdated
    assert library.open(0) is not first
    assert library.names == ["copy", "bert_like"]


def test_a_damaged_folder_says_why_and_is_there_once_it_is_mended(runs, tmp_path):
    path = Path(shutil.copytree(runs["core"], tmp_path / "copy"))
    heads = (path / "heads.parquet").read_bytes()
    (path / "heads.parquet").write_bytes(heads[:100])
    library = Library([path, runs["bert_like"]])
    assert "heads.parquet" in str(library.problem(0))
    assert library.problem(1) is None
    (path / "heads.parquet").write_bytes(heads)
    assert library.problem(0) is None


def test_nothing_but_damaged_and_foreign_folders_is_an_error_at_once(tmp_path):
    with pytest.raises(RunFormatError, match=r"no manifest\.json"):
        Library([tmp_path, tmp_path / "nowhere"])


def test_other_runs_stay_open_beside_a_damaged_a_foreign_and_a_going_one(runs, tmp_path, going):
    damaged = Path(shutil.copytree(runs["core"], tmp_path / "<i>damaged"))
    (damaged / "sites.parquet").write_bytes(b"nothing")
    (tmp_path / "foreign").mkdir()
    server = Served(damaged, runs["core"], tmp_path / "foreign", going)
    try:
        pages = [get(f"{server.url}?run={number}")[2].decode() for number in range(4)]
        assert "This run cannot be shown" in pages[0]
        assert "sites.parquet" in pages[0]
        assert "&lt;i&gt;damaged" in pages[0]
        assert 'href="?run=1"' in pages[0]
        assert 'id="atlas"' in pages[1]
        assert "no manifest.json" in pages[2]
        assert "going has no tables yet" in pages[3]
        assert "1 of 4 shards are done, 1,000 tokens" in pages[3]
        assert 'http-equiv="refresh"' in pages[3]
        assert 'http-equiv="refresh"' not in pages[0]
    finally:
        server.stop()


def test_a_run_that_is_going_says_how_far_it_is_and_how_old_its_numbers_are(going):
    assert is_going(going)
    assert how_far(going) == (1, 4, 1000)
    with pytest.raises(RunFormatError, match="still running"):
        RunData(going)
    growing_run.merge(going, 1, 1)
    run = RunData(going)
    assert (run.heads.entropy == 1).all()
    growing_run.finish_shard(going, 2)
    told = look(run)
    assert (told["shards"], told["tokens"], told["tokens_planned"]) == (2, 2000, 4000)
    assert (told["merged_shards"], told["merged_tokens"]) == (1, 1000)
    assert told["at"] == (going / "manifest.json").stat().st_mtime_ns / 1e9
    growing_run.merge(going, 2, 2)
    assert look(run) == {"newer": True}
    assert (RunData(going).heads.entropy == 2).all()
    assert look(RunData(going))["merged_tokens"] == 2000


def test_a_finished_run_has_nothing_to_say(runs):
    run = RunData(runs["core"])
    assert look(run) == {}
    assert waiting(runs["core"]) == ""
    assert not is_going(runs["core"])


def test_a_page_is_told_once_that_newer_numbers_are_there(going):
    growing_run.merge(going, 1, 1)
    page = Session(Document(), RunData(going), ViewState(), ["going"])
    sent = []
    page.wire.on_change("shown", lambda attr, old, new: sent.append(new))
    page.watch.tick()
    assert sent == []
    growing_run.merge(going, 2, 2)
    page.watch.tick()
    page.watch.tick()
    assert len(sent) == 1
    assert '"run": {"newer": true}' in page.wire.shown
