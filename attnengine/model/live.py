"""One text through a loaded model, as a :class:`~attnengine.model.sentence.Sentence` that numpy alone can read.

The text is laid out as a run lays out its windows (special tokens, token types, shifted decoder input), so that a
typed sentence and the same sentence in a corpus are the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attnengine.corpus.documents import Document
from attnengine.corpus.images import ImageWindows, patch_grid
from attnengine.corpus.special_tokens import SpecialTokens
from attnengine.corpus.tokenise import NO_SENTENCE, tokenise
from attnengine.corpus.windows import TextWindows, window_length
from attnengine.errors import UnsupportedModelError
from attnengine.model.capture import find_sites
from attnengine.model.load import LoadedModel
from attnengine.model.sentence import Attention, Bias, Sentence, Tokens
from attnengine.records import Site
from attnengine_kernels.call import AttentionCall

if TYPE_CHECKING:
    from PIL.Image import Image

#: Tokens of a text that is looked at whole. All heads' queries and keys of an 8-billion-parameter model are 2 GB here.
LONGEST = 4096
OnSite = Callable[[Site], None]


def look(
    loaded: LoadedModel,
    text: str | Image,
    text_b: str | None = None,
    *,
    decoder_text: str | None = None,
    bos: str = "auto",
    on_site: OnSite = lambda _: None,
) -> Sentence:
    """Run the model on a text, a pair of texts or an image, and keep what its attention worked with.

    A pair is laid out as the tokenizer lays pairs out. The decoder of an encoder–decoder model reads ``decoder_text``,
    or else the text itself, shifted by one as in a run. ``bos`` as for a run. ``on_site`` is called inside the forward
    before each attention call is kept; what it raises stops the forward and leaves the model as it was.

    Raises ValueError for a text without tokens or with more than the model (or :data:`LONGEST`) takes, and
    UnsupportedModelError and CaptureError as capture does.
    """
    if not isinstance(text, str):
        _expect(loaded, "image")
        return look_at(loaded, Document("image", 0, 0, image=text), on_site=on_site)
    _expect(loaded, "text")
    feed = _whole(loaded, text if text_b is None else (text, text_b), bos)
    if decoder_text is None:
        return _look_window(loaded, feed, 0, on_site)
    if not loaded.is_encoder_decoder:
        raise ValueError(f"{loaded.class_name} has no decoder beside an encoder; leave decoder_text out")
    return _look_window(loaded, feed, 0, on_site, _whole(loaded, decoder_text, bos))


def look_at(
    loaded: LoadedModel,
    document: Document,
    window: int = 0,
    *,
    length: int | None = None,
    stride: int | None = None,
    bos: str = "auto",
    on_site: OnSite = lambda _: None,
) -> Sentence:
    """Run the model on one window of a document, cut as a run of these settings cuts it.

    Raises ValueError for a window the document does not have.
    """
    if document.image is not None:
        return _look_picture(loaded, document, on_site)
    special = SpecialTokens.of(loaded.tokenizer, bos, pair=document.is_pair)
    length = window_length(length, loaded.max_positions)
    feed = _windows(loaded, document, special, length, stride)
    if not 0 <= window < len(feed.n_tokens):
        raise ValueError(f"{document.source} has windows 0 to {len(feed.n_tokens) - 1}, got {window}")
    return _look_window(loaded, feed, window, on_site)


def _expect(loaded: LoadedModel, given: str) -> None:
    if loaded.modality != given:
        raise ValueError(f"{loaded.class_name} reads {loaded.modality}, got {given}")


def _whole(loaded: LoadedModel, content: str | tuple[str, str], bos: str) -> TextWindows:
    """The one window that holds all of a typed text."""
    for part in (content,) if isinstance(content, str) else content:
        if not part.strip():
            raise ValueError("there is no text to look at; type a sentence")
        try:
            size = len(part.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} of the text is half a surrogate pair; remove it") from error
    special = SpecialTokens.of(loaded.tokenizer, bos, pair=not isinstance(content, str))
    room = min(loaded.max_positions or LONGEST, LONGEST)
    feed = _windows(loaded, Document("text", 0, size, content), special, 2**30, None)
    if feed.n_tokens[0] > room:
        raise ValueError(f"the text has {feed.n_tokens[0]:,} tokens, expected at most {room:,}; shorten it")
    return feed


def _windows(
    loaded: LoadedModel, document: Document, special: SpecialTokens, length: int, stride: int | None
) -> TextWindows:
    pad = loaded.tokenizer.pad_token_id
    return TextWindows(
        [document],
        tokenise([document], loaded.tokenizer),
        special,
        length=length,
        stride=stride,
        decoder_start=loaded.decoder_start_token_id if loaded.is_encoder_decoder else None,
        pad_id=pad if pad is not None else 0,
        model_inputs=loaded.tokenizer_inputs,
    )


def _look_window(
    loaded: LoadedModel, feed: TextWindows, window: int, on_site: OnSite, decoder: TextWindows | None = None
) -> Sentence:
    device = str(loaded.model.device)
    inputs = feed.batch([window], device).inputs
    if loaded.is_encoder_decoder:
        read, where = (feed, window) if decoder is None else (decoder, 0)
        theirs = read.batch([where], device).inputs
        inputs |= {name: value for name, value in theirs.items() if name.startswith("decoder_")}
        streams = {"encoder": _tokens(loaded, feed, window, "encoder"), "decoder": _shifted(loaded, read, where)}
    else:
        streams = {"": _tokens(loaded, feed, window, "")}
    parts = feed.documents[0].parts
    text = streams["encoder" if loaded.is_encoder_decoder else ""].source
    first, second = parts if len(parts) == 2 else (text, None)
    return Sentence(first, second, streams, _attend(loaded, inputs, on_site))


def _tokens(loaded: LoadedModel, feed: TextWindows, window: int, stack: str) -> Tokens:
    """The tokens of a window; its places count from the first character that the window holds."""
    document, special = feed.documents[0], feed.special
    rows = feed.tokens([window])[0]
    ids, start, end = rows["id"].astype(np.int64), rows["start"].astype(np.int64), rows["end"].astype(np.int64)
    inside = start >= 0
    first, last = (int(start[inside].min()), int(end[inside].max())) if inside.any() else (0, 0)
    pieces = loaded.tokenizer.convert_ids_to_tokens(ids.tolist())
    text = document.text
    special_ids = np.isin(ids, list(special.ids))
    segment = rows["sentence"] if document.is_pair else np.zeros(len(rows))
    segment = np.where(segment == NO_SENTENCE, 0, segment)
    if document.is_pair and special.suffix:
        segment[len(segment) - len(special.suffix) :] = 1
    return Tokens(
        stack,
        text[first:last],
        ids,
        tuple(text[a:b] or piece if a >= 0 else piece for a, b, piece in zip(start, end, pieces, strict=True)),
        np.where(inside, start - first, -1),
        np.where(inside, end - first, -1),
        special_ids,
        segment.astype(np.int8),
    )


def _shifted(loaded: LoadedModel, feed: TextWindows, window: int) -> Tokens:
    """What the decoder reads: its start token, then the window without its last token."""
    read = _tokens(loaded, feed, window, "decoder")
    opening = loaded.decoder_start_token_id
    assert opening is not None
    name = loaded.tokenizer.convert_ids_to_tokens([opening])[0]

    def shift(values: np.ndarray, front: int) -> np.ndarray:
        return np.concatenate([np.array([front], dtype=values.dtype), values[:-1]])

    return Tokens(
        "decoder",
        read.source,
        shift(read.ids, opening),
        (name, *read.texts[:-1]),
        shift(read.start, -1),
        shift(read.end, -1),
        shift(read.special, opening in feed.special.ids),
        shift(read.segment, 0),
    )


def _look_picture(loaded: LoadedModel, document: Document, on_site: OnSite) -> Sentence:
    _expect(loaded, "image")
    pixels = ImageWindows([document], loaded.tokenizer, grid=(1, 1), prefix=0).pixels([0], str(loaded.model.device))
    calls = _attend(loaded, {"pixel_values": pixels}, on_site)
    try:
        size = (pixels.shape[-2], pixels.shape[-1])
        grid, prefix = patch_grid(loaded.model.config, size, calls[0].shape[0])
    except ValueError as error:
        raise UnsupportedModelError(f"{loaded.class_name}: {error}") from error
    n = prefix + grid[0] * grid[1]
    feed = ImageWindows([document], loaded.tokenizer, grid=grid, prefix=prefix)
    facts = feed.describe(np.zeros(n, dtype=np.int64), np.arange(n), text=True)
    nowhere = np.full(n, -1, dtype=np.int64)
    tokens = Tokens(
        "", "", nowhere, tuple(facts["text"]), nowhere, nowhere, facts["is_special"].to_numpy(dtype=bool),
        np.zeros(n, dtype=np.int8), facts[["row", "col"]].to_numpy(),
    )  # fmt: skip
    return Sentence("", None, {"": tokens}, calls)


def _attend(loaded: LoadedModel, inputs: dict[str, Tensor], on_site: OnSite) -> tuple[Attention, ...]:
    """Every attention call of one forward, copied while its tensors are alive."""
    found: list[Attention] = []
    biases: dict[int, tuple[Tensor, Bias]] = {}  # by identity, and alive so that it stays one: layers share theirs

    def keep(site: Site, call: AttentionCall) -> None:
        on_site(site)
        bias = None
        if call.bias is not None:
            if id(call.bias) not in biases:
                biases[id(call.bias)] = (call.bias, _bias(call.bias[0]))
            bias = biases[id(call.bias)][1]
        sink = None if call.sink is None else _array(call.sink)
        lo, hi = (bound[0].cpu().numpy().copy() for bound in (call.lo, call.hi))
        found.append(Attention(site, _array(call.query[0]), _array(call.key[0]), lo, hi, bias, sink))

    find_sites(loaded.model, inputs, keep)
    return tuple(found)


def _array(tensor: Tensor) -> np.ndarray:
    """An fp32 copy on the host: what the model holds is freed, or written over, when the layer returns."""
    return np.array(tensor.detach().float().cpu().numpy(), dtype=np.float32, order="C")


def _bias(bias: Tensor) -> Bias:
    """(1 or h, q, k) as it is, or as one number an offset where that says the same."""
    heads, rows, keys = bias.shape
    if rows == keys and rows > 1:
        by_offset = torch.cat([bias[:, -1], bias[:, 0, 1:]], dim=-1)  # (heads, q + k - 1)
        if all(torch.equal(by_offset[head].unfold(0, keys, 1).flip(0), bias[head]) for head in range(heads)):
            return Bias(_array(by_offset), by_offset=True)
    return Bias(_array(bias))
