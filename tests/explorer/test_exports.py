"""Exports: tables through their one-time address, pictures and pages as the browser saves them."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from bokeh.document import Document
from PIL import Image

from attnengine_explorer.exports import MAX_BYTES, SECONDS, Exports, file_name, written
from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import Change, ViewState
from tests.explorer.conftest import Served
from tests.explorer.test_browser import Page

TOKENS = pd.Series(["=1+1", "a,b", "\ud800", None, "\u202ex"], dtype=object)
TABLE = pd.DataFrame({"token": TOKENS, "value": [1.5, np.nan, -2.0, 3.0, 1e-9]})


def test_a_file_can_be_fetched_once_and_not_after_a_minute() -> None:
    clock = [0.0]
    exports = Exports(now=lambda: clock[0])
    path = exports.offer("L0H0 ä.csv", b"abc", "text/csv")
    _, key, name = path.split("/")
    assert name == "L0H0%20%C3%A4.csv"
    assert exports.take("other") is None
    assert exports.take(key).content == b"abc"
    assert exports.take(key) is None
    _, key, _ = exports.offer("x.csv", b"abc", "text/csv").split("/")
    clock[0] = SECONDS + 1
    assert exports.take(key) is None
    with pytest.raises(ValueError, match="256 MB wait"):
        exports.offer("x", bytes(MAX_BYTES + 1), "text/csv")


def test_tables_say_what_they_are_and_hold_no_formula() -> None:
    lines = written(TABLE, "csv", "a\ncaption").decode().splitlines()
    assert lines == ["# a caption", "token,value", "'=1+1,1.5", '"a,b",', "?,-2.0", ",3.0", "\u202ex,1e-09"]
    found = pq.read_table(io.BytesIO(written(TABLE, "parquet", "a caption")))
    assert found.schema.metadata[b"attnengine.caption"] == b"a caption"
    assert found["token"].to_pylist() == ["=1+1", "a,b", "?", None, "\u202ex"]
    with pytest.raises(ValueError, match="expected csv or parquet, got 'xlsx'"):
        written(TABLE, "xlsx", "")


def test_a_file_name_is_letters_and_digits() -> None:
    assert file_name("../L0H0 · <img> of\0 x", "csv") == "L0H0-img-of-x.csv"
    assert len(file_name("x" * 500, "csv")) == 84


def test_the_chosen_heads_are_the_table_else_all(runs: dict[str, Path]) -> None:
    run = RunData(runs["bert_like"])
    session = Session(Document(), run, ViewState(), [run.path])
    for heads, expected in (((), 72), (((1, 3), (2, 4)), 2)):
        session.dispatch(Change({"heads": heads}))
        session.wire.act = json.dumps({"kind": "export", "form": "csv", "n": expected})
        told = json.loads(session.wire.shown)["told"]
        file = session.exports.take(told["download"].split("/")[1])
        table = pd.read_csv(io.BytesIO(file.content), comment="#")
        assert len(table) == expected
        assert f"run {run.manifest['run_hash'][:12]}" in file.content.decode().splitlines()[0]
        if heads:
            assert list(zip(table["site"], table["head"], strict=True)) == list(heads)


def answer(url: str, cookie: str = "") -> int:
    request = urllib.request.Request(url, headers={"Cookie": cookie} if cookie else {})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_without_the_token_nothing_is_handed_out(runs: dict[str, Path]) -> None:
    server = Served(runs["core"], host="0.0.0.0", token="0123456789abcdef")
    try:
        port = server.url.split(":")[2].split("/")[0]
        address = f"http://127.0.0.1:{port}/export/{'a' * 43}/x.csv"
        assert answer(address) == 403
        assert answer(address, "attnengine_token=wrong") == 403
        assert answer(address, "attnengine_token=0123456789abcdef") == 404
    finally:
        server.stop()


def saved(page: Any, form: str) -> tuple[str, bytes]:
    page.page.click("#export summary")
    with page.page.expect_download() as download:
        page.page.click(f'[data-export="{form}"]')
    return download.value.suggested_filename, download.value.path().read_bytes()


@pytest.mark.browser
def test_every_form_is_saved_with_its_caption(browser: Any, served: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    page = Page(browser, served("bert_like").url).open("?site=3&head=7")
    run = RunData(runs["bert_like"])
    told = f"run {run.manifest['run_hash'][:12]}"
    name, content = saved(page, "png")
    assert name.startswith("Overview-L3H7-heads-by")
    (tmp_path / "saved.png").write_bytes(content)
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert picture.shape[1] > 500
    assert picture[-60:].min() < 140  # the caption's letters
    svg = saved(page, "svg")[1].decode()
    assert told in svg
    assert svg.count("<svg") > 3
    assert svg.count("<path") > 1000  # bars and marks are drawn as such
    frame = pd.read_csv(io.BytesIO(saved(page, "csv")[1]), comment="#")
    assert len(frame) == 72
    table = pq.read_table(io.BytesIO(saved(page, "parquet")[1]))
    assert told in table.schema.metadata[b"attnengine.caption"].decode()
    name, content = saved(page, "html")
    path = tmp_path / name
    path.write_bytes(content)
    page.clean()
    alone = page.context.new_page()
    problems: list[str] = []
    asked: list[str] = []
    alone.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    alone.on("pageerror", lambda error: problems.append(str(error)))
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(path.as_uri())
    alone.wait_for_selector("html[data-ready]")
    heights = alone.evaluate(
        "Array.from(Bokeh.index.roots, (v) => v.el.getBoundingClientRect()).filter((b) => b.height > 100).length"
    )
    assert heights >= 4
    assert told in alone.inner_text("body")
    assert "L3H7" in alone.inner_text("body")
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
    alone.screenshot(path=tmp_path / "alone.png")
    page.context.close()
