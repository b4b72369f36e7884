"""Every attention call of a forward, handed out while its tensors are alive.

``find_sites`` runs one small forward and lists the model's attention calls; ``Capture`` runs real ones and hands
each call, as an :class:`AttentionCall`, to a function of the caller's. The model computes what it computes under
stock SDPA, bit for bit; the parts that transformers does not run with SDPA (soft-cap, learned sinks) agree with
fp32 eager attention to 1e-5, which ``inexact_reason`` says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attnengine.errors import CaptureError, UnsupportedModelError
from attnengine.model.interface import NAME, configs_without_sdpa, receiving, running
from attnengine.model.keywords import Keywords, read_keywords
from attnengine.model.masks import MaskReader, Visibility
from attnengine.model.vendor import dense_attention, stock_attention
from attnengine.records import Site
from attnengine_kernels.call import AttentionCall

OnCall = Callable[[Site, AttentionCall], None]
_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)


class Capture:
    """``with Capture(model, sites) as capture: outputs = capture.forward(inputs, on_call)``.

    Inside the block the model runs through our attention function, in eval mode and without a cache; on leaving it,
    by an exception too, implementation, cache and training mode are what they were. Several captures may be open at
    once, in one thread or many, each of its own model; the same model twice is a CaptureError.
    """

    def __init__(self, model: PreTrainedModel, sites: Sequence[Site]):
        self.model = model
        self.sites = list(sites)
        self._by_call = {(site.module, site.ordinal): site for site in self.sites}
        self._names = _module_names(model)
        self._stack = ExitStack()

    def __enter__(self) -> Capture:
        self._stack.enter_context(running(self.model, NAME))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def forward(self, inputs: Mapping[str, Any], on_call: OnCall) -> Any:
        """Run the model on ``inputs`` under inference_mode and return what it returns.

        ``on_call(site, call)`` runs inside the forward, once for each site, in the order the model calls them.
        Raises CaptureError if a site is not called or a call is no site, :class:`DenseMaskError` (before any
        attention ran) if the batch has to be split.
        """
        if self.model.config._attn_implementation != NAME:
            raise CaptureError("Capture.forward was called outside its with-block: nothing would be captured")

        def receive(name: str, ordinal: int, call: AttentionCall, _asked: Keywords) -> None:
            site = self._by_call.get((name, ordinal))
            if site is None:
                raise CaptureError(f"{name} made attention call {ordinal}, which the dry forward did not see")
            _check_shapes(site, call)
            on_call(site, call)

        forward = _Forward(self.model, self._names, receive)
        outputs = forward.run(inputs)
        missing = [site for site in self.sites if forward.calls[site.module] <= site.ordinal]
        if missing:
            names = ", ".join(site.module for site in missing[:3])
            raise CaptureError(
                f"{len(missing)} of {len(self.sites)} attention sites were not called in this forward ({names}): "
                "find the sites with the same kind of inputs"
            )
        return outputs


def find_sites(
    model: PreTrainedModel, inputs: Mapping[str, Any], on_call: OnCall = lambda _site, _call: None
) -> list[Site]:
    """The attention calls of one forward of ``model`` on (small) ``inputs``, in the order they are made.

    ``on_call(site, call)`` runs inside the forward, as in :meth:`Capture.forward`: how many tokens an image is, only
    the model knows.
    Raises UnsupportedModelError, with the reason, if there is none or one that cannot be captured faithfully.
    """
    sites: list[Site] = []
    ranks: Counter[tuple[str, str]] = Counter()

    def receive(name: str, ordinal: int, call: AttentionCall, asked: Keywords) -> None:
        site = _site(model, len(sites), name, ordinal, call, asked, ranks)
        ranks[site.stack, site.kind] += 1
        sites.append(site)
        on_call(site, call)

    with running(model, NAME):
        _Forward(model, _module_names(model), receive).run(inputs)
    if not sites:
        raise UnsupportedModelError(_why_nothing_was_seen(model))
    return sites


def inexact_reason(model: PreTrainedModel) -> str | None:
    """None if the captured model's output is bit-identical to stock SDPA, else why it is not, for the manifest."""
    without = sorted({config.model_type for config in configs_without_sdpa(model)})
    if not without:
        return None
    return f"transformers does not run {', '.join(without)} with SDPA; output within 1e-5 of fp32 eager attention"


class _Forward:
    """One forward of a model: computes its attention calls and passes each on to ``receive``."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: Mapping[int, str],
        receive: Callable[[str, int, AttentionCall, Keywords], None],
    ):
        self.model = model
        self.names = names  # id of a module -> its qualified name
        self.receive = receive
        self.calls: Counter[str] = Counter()
        self.masks = MaskReader()

    def run(self, inputs: Mapping[str, Any]) -> Any:
        with receiving(self), torch.inference_mode():
            return self.model(**inputs)

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> Tensor:
        """Output (b, q, h, dv) of one call; see :class:`attnengine.model.interface.Receiver`."""
        name = self._name(module)
        if query.dim() != 4 or query.shape[0] != key.shape[0]:
            shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}"
            raise UnsupportedModelError(f"{name} attends with {shapes}; expected (b, h, q, d) and (b, hkv, k, d)")
        asked = read_keywords(name, dropout, query.shape[1], kwargs)
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        seen = self.masks.read(mask, asked.position_bias, self._is_causal(module, asked, mask, query), query, key)
        self._check_window(name, asked, seen)
        lse: Tensor | None
        if asked.beyond_sdpa:
            output, lse = dense_attention(query, key, value, seen, scale, asked.softcap, asked.sink)
        else:
            output, lse = stock_attention(
                self.masks, module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs
            )
        call = AttentionCall(
            query, key, value, seen.lo, seen.hi, scale, asked.softcap, asked.sink, seen.bias, lse, seen.bounds
        )
        ordinal = self.calls[name]
        self.calls[name] += 1
        self.receive(name, ordinal, call, asked)
        return output

    def _name(self, module: torch.nn.Module) -> str:
        if id(module) not in self.names:
            raise UnsupportedModelError(f"an attention call came from {type(module).__name__}, no part of the model")
        return self.names[id(module)]

    def _check_window(self, name: str, asked: Keywords, seen: Visibility) -> None:
        """Stock SDPA ignores ``sliding_window``: it counts on the mask, so the mask has to hold it."""
        if asked.sliding_window is not None and self.masks.widest(seen) > 2 * asked.sliding_window + 1:
            raise UnsupportedModelError(
                f"{name} asks for sliding_window={asked.sliding_window}, but its mask lets a row see "
                f"{self.masks.widest(seen)} keys: stock SDPA does not apply this window"
            )

    @staticmethod
    def _is_causal(module: torch.nn.Module, asked: Keywords, mask: Tensor | None, query: Tensor) -> bool:
        """None as a mask means "use is_causal": the keyword if given, else the module's, and never for one row."""
        if mask is not None or query.shape[2] == 1:
            return False
        return bool(getattr(module, "is_causal", True) if asked.is_causal is None else asked.is_causal)


def _module_names(model: PreTrainedModel) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules()}


def _check_shapes(site: Site, call: AttentionCall) -> None:
    got = (call.query.shape[1], call.key.shape[1], call.query.shape[3], call.value.shape[3])
    expected = (site.n_heads, site.n_kv_heads, site.d_qk, site.d_v)
    if got != expected:
        raise CaptureError(f"{site.module}: heads, key heads and widths are {got}, in the dry forward {expected}")


def _site(
    model: PreTrainedModel,
    index: int,
    name: str,
    ordinal: int,
    call: AttentionCall,
    asked: Keywords,
    ranks: Mapping[tuple[str, str], int],
) -> Site:
    parts = name.split(".") if getattr(model.config, "is_encoder_decoder", False) else []
    stack = next((part for part in parts if part in ("encoder", "decoder")), "")
    other_keys = call.query.shape[2] != call.key.shape[2]  # without a cache, only another stream has another length
    kind = "cross" if _CROSS.search(name) or other_keys else "self"
    return Site(
        site=index,
        module=name,
        ordinal=ordinal,
        stack=stack,
        kind=kind,
        layer=ranks[stack, kind],
        n_heads=call.query.shape[1],
        n_kv_heads=call.key.shape[1],
        d_qk=call.query.shape[3],
        d_v=call.value.shape[3],
        scale=call.scale,
        window=asked.sliding_window,
        softcap=call.softcap,
        has_sink=call.sink is not None,
        has_bias=call.bias is not None,
    )


def _why_nothing_was_seen(model: PreTrainedModel) -> str:
    kinds = {type(module).__name__ for module in model.modules()}
    attention = sorted(kind for kind in kinds if "attention" in kind.lower())
    if not attention:
        return f"{type(model).__name__} has no attention at all: there is nothing to capture"
    return (
        f"{type(model).__name__} computes attention in {attention[0]}, which does not use transformers' attention "
        "interface: no attention call was seen; use a model that does (most of transformers 5)"
    )
