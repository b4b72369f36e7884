"""A page of the explorer asks for tables of what is there: the command's own merge, in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bokeh.document import Document

from attnengine_explorer.growing import look, merged
from attnengine_explorer.jobs import Ticket
from attnengine_explorer.run_data import RunData


@pytest.mark.acceptance
def test_a_page_can_have_tables_made_of_what_is_there(undisturbed, tmp_path):
    path = Path(shutil.copytree(undisturbed, tmp_path / "r"))
    for left in ("shard-00003.safetensors", "shard-00005.safetensors"):
        (path / "shards" / left).unlink()
    shutil.copy(path / "shards" / "plan.json", path / "manifest.json")
    assert merged(path, Ticket(Document())) == ""
    run = RunData(path)
    assert run.run.coverage["shards"] == 5
    assert look(run)["shards"] == 5


@pytest.mark.acceptance
def test_a_merge_that_cannot_be_is_one_line(undisturbed, tmp_path):
    path = Path(shutil.copytree(undisturbed, tmp_path / "r"))
    (path / "shards" / "plan.json").unlink()
    problem = merged(path, Ticket(Document()))
    assert "plan.json" in problem
    assert "Traceback" not in problem
    assert "\n" not in problem
