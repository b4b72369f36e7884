"""BertViz's three views and the explorer in a notebook, or as files: what ``ae.head_view`` and its kin are.

A view is one HTML page that holds its numbers and its scripts. In a notebook it stands in a sandboxed frame, so that it
looks and works the same in Jupyter, JupyterLab, VS Code and Colab, with or without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnengine.model.sentence import Sentence
    from attnengine.opened import Run
    from attnengine_explorer.standalone import Page

ACTIONS = (None, "view", "return")


class View:
    """What the functions below give: a notebook shows it, :meth:`to_html` writes it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def __repr__(self) -> str:
        return f"<{self.page.title}; .to_html(path) writes it as one file>"

    def _repr_html_(self) -> str:
        return self.page.frame()

    @property
    def data(self) -> str:
        """The whole page, as BertViz's ``html_action="return"`` gives it."""
        return self.page.html()

    def to_html(self, path: str | Path) -> Path:
        """Write one HTML file that needs neither a server nor a network; returns where."""
        return self.page.write(path)


def neuron_view(
    model: Any,
    tokenizer: Any,
    text: Any = None,
    text_b: str | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
    include_layers: list[int] | None = None,
    include_heads: list[int] | None = None,
    run: Run | str | Path | None = None,
    display_mode: str = "auto",
    html_action: str | None = None,
    sentence_a: str | None = None,
    sentence_b: str | None = None,
) -> View | None:
    """q, k, q ⊙ k, q·k and softmax of every query of a text, neuron by neuron (BertViz, arXiv 1906.05714).

    model, tokenizer: as for :func:`attnengine.analyze`. text, text_b: one text or a pair (BertViz's ``sentence_a`` and
    ``sentence_b``). layer, head: what is shown first (0, 0). include_layers, include_heads: what can be chosen; all.
    run: a run of the same model: shows what its corpus says of each neuron. display_mode: "auto" (as the browser
    prefers), "light" or "dark". html_action: None returns the view, which a notebook shows as a cell's value; "return"
    the same; "view" shows it at once and returns None.

    Raises ValueError and TypeError for arguments that do not fit, ModelError and its kin for models that do not.
    """
    from attnengine_explorer.neuron_page import neuron_page

    sentence, name = look(model, tokenizer, _one_of("text", text, "sentence_a", sentence_a),
                          _one_of("text_b", text_b, "sentence_b", sentence_b, needed=False))  # fmt: skip
    heads = chosen_heads(sentence, include_layers, include_heads)
    start = (site_of(sentence, layer, heads), head if head is not None else heads[0][1])
    opened = None if run is None else fitting_run(run, sentence)
    page = neuron_page(
        sentence, start, heads, None if opened is None else opened.neurons,
        title=f"Neuron view of {name}", caption=caption("Neuron view", name, sentence, opened), mode=mode(display_mode),
    )  # fmt: skip
    return shown(View(page), html_action)


def head_view(
    model: Any = None,
    tokenizer: Any = None,
    text: Any = None,
    text_b: str | None = None,
    *,
    layer: int | None = None,
    heads: list[int] | None = None,
    include_layers: list[int] | None = None,
    display_mode: str = "auto",
    html_action: str | None = None,
    **given: Any,
) -> View | None:
    """Attention between the tokens of a text as lines, a colour a head (BertViz's head view, arXiv 1904.02679).

    ``head_view(model, tokenizer, text, text_b)``, or attention computed elsewhere as BertViz takes it:
    ``head_view(attention, tokens, sentence_b_start)``, also by these names and ``prettify_tokens``,
    ``encoder_attention``, ``decoder_attention``, ``cross_attention``, ``encoder_tokens``, ``decoder_tokens``. layer,
    heads: what is shown first; include_layers: what can be chosen. display_mode, html_action: as in
    :func:`neuron_view`.

    Raises ValueError and TypeError for arguments that do not fit, ModelError and its kin for models that do not.
    """
    return _lines(
        "Head view", model, tokenizer, text, text_b, given, layer, heads, include_layers, None, display_mode,
        html_action,
    )  # fmt: skip


def model_view(
    model: Any = None,
    tokenizer: Any = None,
    text: Any = None,
    text_b: str | None = None,
    *,
    include_layers: list[int] | None = None,
    include_heads: list[int] | None = None,
    display_mode: str = "auto",
    html_action: str | None = None,
    **given: Any,
) -> View | None:
    """The pattern of every head of a model in small; a click opens one as lines (BertViz's model view).

    Arguments as for :func:`head_view`; include_heads leaves only these heads of each layer.
    """
    return _lines(
        "Model view", model, tokenizer, text, text_b, given, None, None, include_layers, include_heads, display_mode,
        html_action,
    )  # fmt: skip


def _lines(
    kind: str, model: Any, tokenizer: Any, text: Any, text_b: str | None, given: dict[str, Any], layer: int | None,
    lit: list[int] | None, layers: list[int] | None, heads: list[int] | None, display_mode: str,
    html_action: str | None,
) -> View | None:  # fmt: skip
    from attnengine_explorer.head_page import head_page

    sentence, name = _looked_at(model, tokenizer, text, text_b, given)
    shown_heads = chosen_heads(sentence, layers, heads)
    site = site_of(sentence, layer, shown_heads)
    mine = [head for where, head in shown_heads if where == site]
    if lit is not None and (not lit or not set(lit) <= set(mine)):
        raise ValueError(f"heads must name some of {mine[0]} to {mine[-1]}, got {lit}")
    page = head_page(
        sentence, (site, mine[0]), shown_heads, lit, title=f"{kind} of {name}",
        caption=caption(kind, name, sentence), mode=mode(display_mode), with_model=kind == "Model view",
    )  # fmt: skip
    return shown(View(page), html_action)


def _looked_at(
    model: Any, tokenizer: Any, text: Any, text_b: str | None, options: dict[str, Any]
) -> tuple[Sentence, str]:
    """A text through a model, or attention that was given in the model's place or by BertViz's names."""
    names = ("attention", "tokens", "sentence_b_start", "prettify_tokens", "encoder_attention", "decoder_attention",
             "cross_attention", "encoder_tokens", "decoder_tokens")  # fmt: skip
    strange = [name for name in options if name not in (*names, "sentence_a", "sentence_b")]
    if strange:
        raise TypeError(f"no argument {strange[0]!r}")
    if (model is not None and hasattr(model, "config")) or hasattr(model, "as_dict"):
        sentence_a, sentence_b = options.pop("sentence_a", None), options.pop("sentence_b", None)
        if options:
            raise TypeError(f"a model and {next(iter(options))}: give the one or the other")
        first = _one_of("text", text, "sentence_a", sentence_a)
        return look(model, tokenizer, first, _one_of("text_b", text_b, "sentence_b", sentence_b, needed=False))
    from attnengine.model.given import given

    for name, value in (("attention", model), ("tokens", tokenizer), ("sentence_b_start", text)):
        if value is not None:
            options[name] = _one_of(name, value, name, options.get(name))
    return given(**options), "given attention"


def explore(*runs: Run | str | Path, height: int = 900) -> Explorer:
    """The explorer on runs, in a frame of the notebook; it serves this machine until the notebook's process ends.

    Raises RunFormatError for a folder that is no run, and OSError in Colab, whose proxy passes no web socket
    (googlecolab/colabtools issues 549 and 2529).
    """
    import sys

    if "google.colab" in sys.modules:
        raise OSError(
            "Colab passes no web socket from a notebook to its machine, so the explorer cannot be shown there; "
            "download the run and `attnengine explore` it at home. ae.head_view, ae.model_view and ae.neuron_view work"
        )
    return Explorer([run if isinstance(run, str | Path) else run.path for run in runs], height)


class Explorer:
    """An explorer in a process of its own. ``url`` opens it in a tab, :meth:`stop` ends it."""

    def __init__(self, runs: list[str | Path], height: int) -> None:
        import atexit
        import subprocess
        import sys

        from attnengine.opened import open_run

        if not runs:
            raise ValueError("expected a run to explore")
        for run in runs:
            open_run(run)  # a folder that is no run is an error here, not in the frame
        self.height = height
        command = [sys.executable, "-m", "attnengine.cli", "explore", *map(str, runs), "--port", "0", "--no-browser"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        atexit.register(self.stop)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if not line.startswith("explorer: "):
            raise ValueError(f"the explorer did not start: {line.strip()}")
        self.url = line.split()[1]

    def __repr__(self) -> str:
        return f"<Explorer at {self.url}; .stop() ends it>"

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" style="width: 100%; height: {self.height}px; border: 0"></iframe>'

    def stop(self) -> None:
        """End the server."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)
        if self._process.stderr is not None:
            self._process.stderr.close()


def look(model: Any, tokenizer: Any, text: Any, text_b: str | None) -> tuple[Sentence, str]:
    """The text through the model, and the model's name."""
    from attnengine.model.live import look
    from attnengine.model.load import LoadedModel, wrap_model

    loaded = model if isinstance(model, LoadedModel) else wrap_model(model, tokenizer)
    return look(loaded, text, text_b), Path(loaded.model_id).name or loaded.class_name


def chosen_heads(
    sentence: Sentence, layers: list[int] | None = None, heads: list[int] | None = None
) -> list[tuple[int, int]]:
    """(site, head) of every head of these layers; ValueError names what the model does not have."""
    sites = [call.site for call in sentence.attentions]
    for name, asked, there in (
        ("include_layers", layers, {site.layer for site in sites}),
        ("include_heads", heads, {head for site in sites for head in range(site.n_heads)}),
    ):
        if asked is not None and (not asked or not set(asked) <= there):
            raise ValueError(f"{name} must name some of 0 to {max(there)}, got {asked}")
    return [
        (site.site, head)
        for site in sites
        if layers is None or site.layer in layers
        for head in range(site.n_heads)
        if heads is None or head in heads
    ]


def site_of(sentence: Sentence, layer: int | None, heads: list[tuple[int, int]]) -> int:
    """The first shown site of a layer, or of all; ValueError for a layer that is not shown."""
    sites = [site for site, _ in heads if layer is None or sentence.attentions[site].site.layer == layer]
    if not sites:
        raise ValueError(f"layer {layer} is not among the layers that are shown")
    return sites[0]


def fitting_run(run: Run | str | Path, sentence: Sentence) -> Run:
    """The run, opened; ValueError unless its attention calls have the shapes of this model's."""
    from attnengine.opened import Run, open_run

    opened = run if isinstance(run, Run) else open_run(run)
    columns = ["site", "n_heads", "n_kv_heads", "d_qk"]
    theirs = set(opened.sites[columns].itertuples(index=False, name=None))
    ours = {(s.site, s.n_heads, s.n_kv_heads, s.d_qk) for s in (call.site for call in sentence.attentions)}
    if not theirs <= ours:
        raise ValueError(f"{opened.path} is a run of another model: its layers have other heads than this one's")
    return opened


def caption(view: str, name: str, sentence: Sentence, run: Run | None = None) -> str:
    """What is shown, in one line: the view, the model, the text, the run."""
    text = " | ".join(" ".join(part.split()) for part in (sentence.text, sentence.text_b) if part)
    told = f"{view} of {name} · “{text if len(text) <= 120 else text[:119] + '…'}”"
    return told if run is None else f"{told} · corpus: run {str(run.manifest.get('run_hash', ''))[:12]}"


def mode(display_mode: str) -> str:
    """The display mode if it is one."""
    if display_mode not in ("auto", "light", "dark"):
        raise ValueError(f"display_mode is 'auto', 'light' or 'dark', got {display_mode!r}")
    return display_mode


def shown(view: View, html_action: str | None) -> View | None:
    """The view; with "view" it is shown here and now, and nothing is returned."""
    if html_action not in ACTIONS:
        raise ValueError(f"html_action is 'view', 'return' or None, got {html_action!r}")
    if html_action != "view":
        return view
    try:
        from IPython.display import display
    except ImportError as error:
        raise ValueError("html_action='view' needs a notebook; leave it out and use .to_html(path)") from error
    display(view)
    return None


def _one_of(name: str, value: Any, other: str, theirs: Any, *, needed: bool = True) -> Any:
    """The argument under our name or under BertViz's."""
    if value is not None and theirs is not None:
        raise TypeError(f"{name} and {other} mean the same: give one of them")
    if needed and value is None and theirs is None:
        raise TypeError(f"expected {name}: the sentence to look at")
    return value if value is not None else theirs
