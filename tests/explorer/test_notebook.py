"""Views in notebooks and files: BertViz's arguments, attention given, one file without a network, a real notebook."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

import attnengine as ae
from attnengine.bundled import bundled_model
from attnengine.errors import RunFormatError
from attnengine.notebook import View
from tests.explorer.page_driver import Page

A, B = "The cat sat on the mat.", "It purred because it was warm."


@cache
def minilm() -> tuple[Any, Any]:
    folder = bundled_model()
    return AutoModel.from_pretrained(folder, attn_implementation="eager"), AutoTokenizer.from_pretrained(folder)


@cache
def attended() -> tuple[Any, list[str], int]:
    """What a user of BertViz has: attention, tokens, where sentence B starts."""
    model, tokenizer = minilm()
    inputs = tokenizer(A, B, return_tensors="pt")
    attention = model(**inputs, output_attentions=True).attentions
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    return attention, tokens, int(inputs["token_type_ids"][0].argmax())


def layer_source(view: View | None) -> dict[str, list[Any]]:
    assert view is not None
    (source,) = [tag for tag in view.page.roots["heads"].tags if tag.name == "head-layers"]
    return source.data


def weights(data: dict[str, list[Any]], layer: int, n: int) -> np.ndarray:
    found = np.zeros((12, n, n))
    found[data["lines_head"][layer], data["lines_query"][layer], data["lines_key"][layer]] = data["lines_weight"][layer]
    return found


def test_a_text_and_its_attention_given_are_the_same_lines() -> None:
    attention, tokens, b_start = attended()
    ours = layer_source(ae.head_view(*minilm(), A, B))
    theirs = layer_source(ae.head_view(attention, tokens, b_start))
    named = layer_source(ae.head_view(attention=attention, tokens=tokens, sentence_b_start=b_start))
    for layer in range(6):
        expected = attention[layer][0].detach().numpy()
        for data in (ours, theirs, named):
            np.testing.assert_allclose(weights(data, layer, len(tokens)), expected, atol=1e-5)
    assert list(ours["left_segment"][0]) == list(theirs["left_segment"][0])
    assert list(ours["left_special"][0]) == list(theirs["left_special"][0])


def test_an_encoder_decoders_three_attentions_are_layers_with_their_own_tokens() -> None:
    rng = np.random.default_rng(0)
    shapes = {"encoder_attention": (3, 3), "decoder_attention": (2, 2), "cross_attention": (2, 3)}
    given = {name: [rng.dirichlet(np.ones(k), size=(1, 4, q))] for name, (q, k) in shapes.items()}
    tokens = {"encoder_tokens": ["a", "Ġb", "c"], "decoder_tokens": ["x", "▁y"]}
    view = ae.head_view(**given, **tokens)
    data = layer_source(view)
    assert view.page.lists["layers"] == ["encoder L0", "decoder L0", "decoder L0 cross"]
    assert [list(texts) for texts in data["right_text"]] == [["a", "␣b", "c"], ["x", "␣y"], ["a", "␣b", "c"]]
    plain = layer_source(ae.head_view(**given, **tokens, prettify_tokens=False))
    assert list(plain["left_text"][0]) == ["a", "Ġb", "c"]


def test_layers_and_heads_can_be_left_out() -> None:
    view = ae.model_view(*minilm(), A, include_layers=[1, 4], include_heads=[0, 5])
    assert view.page.lists["layers"] == ["L1", "L4"]
    assert view.page.roots["model"].select_one({"name": "model-view-cells"}).data["name"] == [
        "L1H0", "L1H5", "L4H0", "L4H5",
    ]  # fmt: skip
    assert ae.neuron_view(*minilm(), A, layer=4, head=7).page.settings["sheet"] == 55


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ae.head_view(*minilm(), A, layer=9), "layer 9 is not among"),
        (lambda: ae.head_view(*minilm(), A, heads=[12]), r"heads must name some of 0 to 11, got \[12\]"),
        (lambda: ae.head_view(*minilm(), A, include_layers=[]), "include_layers must name some of 0 to 5"),
        (lambda: ae.head_view(*minilm(), A, display_mode="sepia"), "display_mode is 'auto', 'light' or 'dark'"),
        (lambda: ae.head_view(*minilm(), A, html_action="show"), "html_action is 'view', 'return' or None"),
        (
            lambda: ae.head_view(attended()[0], attended()[1][:-1]),
            r"over .18, 18. positions, but there are .17, 17.",
        ),
        (lambda: ae.head_view(attended()[0]), "expected tokens"),
        (lambda: ae.head_view(), "expected attention"),
        (lambda: ae.head_view(*minilm()), "expected text"),
        (lambda: ae.head_view(*minilm(), A, sentence_a=A), "text and sentence_a mean the same"),
        (lambda: ae.head_view(*minilm(), A, tokens=["a"]), "a model and tokens"),
        (lambda: ae.neuron_view(*minilm(), A, colour="red"), "colour"),
        (lambda: ae.explore(), "expected a run"),
    ],
)
def test_arguments_that_do_not_fit_are_said_in_words(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_run_of_another_model_is_refused(runs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="a run of another model"):
        ae.neuron_view(*minilm(), A, run=runs["bert_like"])


def test_a_page_is_small_and_stands_in_a_sandboxed_frame() -> None:
    view = ae.head_view(*minilm(), A, include_layers=[0])
    assert len(view.data) < 700_000
    assert view._repr_html_().count("<iframe") == 1
    assert 'sandbox="allow-scripts allow-downloads"' in view._repr_html_()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    pages: list[Page] = []

    def start(path: Path) -> Page:
        pages.append(Page(browser, path.as_uri()))
        return pages[-1]

    yield start
    for page in pages:
        page.context.close()


@pytest.mark.browser
def test_one_file_opens_without_a_network_and_a_thumbnail_opens_its_head(tab: Any, tmp_path: Path) -> None:
    page = tab(ae.model_view(*minilm(), A, B, display_mode="dark").to_html(tmp_path / "m.html")).open()
    place = page.page.evaluate("""() => {
      const doc = Bokeh.documents[0], cells = doc.get_model_by_name("model-view-cells").data;
      const view = Bokeh.index.find_one(doc.get_model_by_name("model-view-figure"));
      const i = cells.name.indexOf("L3H8"), box = view.canvas_view.el.getBoundingClientRect();
      return [box.left + view.frame.x_scale.compute(cells.x[i]), box.top + view.frame.y_scale.compute(cells.y[i])];
    }""")
    page.page.mouse.click(*place)
    page.until("document.querySelector('[data-field=layer]').value === '3'")
    assert page.data("head-view-squares", "on") == [int(i == 8) for i in range(12)]
    page.page.select_option('[data-field="between"]', "ab")
    page.until("Bokeh.documents[0].get_model_by_name('head-view-drawn').data.alpha.length > 0")
    page.clean()
    assert len(page.requests) == 1
    with page.page.expect_download() as download:
        page.page.click('[data-export="csv"]')
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("# Model view of")
    assert lines[1] == "layer,head,query,query_token,key,key_token,weight"
    assert len(lines) == 2 + 18 * 18
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(28, 31, 36)"


NOTEBOOK = """
import attnengine as ae
from attnengine.bundled import bundled_model
from transformers import AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained(bundled_model()), AutoTokenizer.from_pretrained(bundled_model())
"""
CELLS = [
    f"ae.head_view(model, tokenizer, {A!r}, {B!r}, layer=2, heads=[3])",
    f"ae.model_view(model, tokenizer, {A!r}, html_action='view', include_layers=[0, 1])",
    f"ae.neuron_view(model, tokenizer, {A!r}, layer=1, head=2, include_layers=[1])",
]


@pytest.mark.browser
def test_a_notebook_runs_and_its_page_shows_all_three_views(tab: Any, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (NOTEBOOK, *CELLS)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    path = tmp_path / "notebook.html"
    path.write_text(HTMLExporter(template_name="basic").from_notebook_node(notebook)[0], encoding="utf-8")
    page = tab(path)
    page.page.goto(page.base)
    page.until("document.querySelectorAll('iframe').length === 3")
    frames = page.page.frames[1:]
    for frame in frames:
        frame.wait_for_selector("html[data-ready]", timeout=60_000)
    titles = [frame.title() for frame in frames]
    assert [title.split(" of ")[0] for title in titles] == ["Head view", "Model view", "Neuron view"]
    assert frames[2].evaluate("Bokeh.documents[0].get_model_by_name('qk-rows').data.y.length") == 9
    assert page.problems == []
    assert len([url for url in page.requests if not url.startswith(("about:", "blob:", "data:"))]) == 1


def test_colab_is_told_that_it_cannot_show_the_explorer(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Path]) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    with pytest.raises(OSError, match="Colab passes no web socket"):
        ae.explore(runs["core"])


def test_explore_serves_the_run_until_it_is_stopped(runs: dict[str, Path], tmp_path: Path) -> None:
    found = ae.explore(runs["core"])
    try:
        assert found.url in found._repr_html_()
        with urllib.request.urlopen(found.url + "health", timeout=10) as answer:
            assert answer.status == 200
    finally:
        found.stop()
    with pytest.raises(RunFormatError):
        ae.explore(tmp_path)


def test_importing_the_front_door_loads_no_bokeh() -> None:
    code = "import attnengine.notebook, sys; print([m for m in ('bokeh', 'torch', 'IPython') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
