"""Does what is captured agree with what the model computes? Asked before every run, on one small padded batch.

Three answers, recorded as numbers: the model's outputs under capture against those under stock attention, the
pattern rebuilt from the captured queries and keys against the model's own eager attention, and the number of calls.
A mask that went missing, a scale misread or a keyword ignored shows here and stops the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attnengine.errors import CaptureError
from attnengine.model.capture import Capture, inexact_reason
from attnengine.model.interface import STOCK, running
from attnengine.records import Site
from attnengine_kernels.call import AttentionCall

# How far eager attention itself may be off in its own precision: bf16 scores alone move a weight by 0.08.
PATTERN_LIMIT = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
# Relative to the largest output, for models whose stock attention is eager.
OUTPUT_LIMIT = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class SelfCheck:
    """What the check measured. Errors are maxima over real rows; two NaNs at one place count as equal."""

    calls: int  # attention calls of one forward
    dtype: str
    exact: bool  # the outputs have to be bit-identical to stock SDPA
    reason: str | None  # why not, where not
    output_error: float  # max |captured - stock| / max |stock|; 0.0 where they are the same bits
    output_limit: float
    pattern_error: float | None  # max |rebuilt - eager|; None where no eager pattern could be had
    pattern_limit: float
    pattern_sites: int  # sites whose eager pattern was seen
    nan_outputs: int  # NaN among the model's own outputs

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def self_check(model: PreTrainedModel, sites: Sequence[Site], inputs: Mapping[str, Any]) -> SelfCheck:
    """Check capture of ``sites`` on ``inputs``, a small batch of at least two windows, one of them padded.

    Raises CaptureError if a site is not called, if the outputs differ from stock attention's (by a single bit where
    the model supports SDPA) or if a rebuilt pattern differs from the eager one by more than its limit.
    """
    calls: list[AttentionCall] = []
    with Capture(model, sites) as capture:
        captured = capture.forward(inputs, lambda _site, call: calls.append(call))
    stock = _run(model, STOCK, inputs)
    reason, real, dtype = inexact_reason(model), _real_rows(inputs), calls[0].query.dtype
    output_error = _output_error(captured, stock, real if reason else {})
    if reason is None and output_error > 0:
        noise = _output_error(_run(model, STOCK, inputs), stock, {})
        if noise > 0:  # atomics in a mixture of experts on a GPU, for instance
            reason = f"two runs of the model alone differ by {noise:.2g}"
    errors = _pattern_errors(sites, calls, _eager_patterns(model, sites, inputs), real)
    check = SelfCheck(
        calls=len(calls),
        dtype=str(dtype).removeprefix("torch."),
        exact=reason is None,
        reason=reason,
        output_error=output_error,
        output_limit=0.0 if reason is None else OUTPUT_LIMIT[dtype],
        pattern_error=max(errors) if errors else None,
        pattern_limit=PATTERN_LIMIT[dtype],
        pattern_sites=len(errors),
        nan_outputs=sum(int(output.isnan().sum()) for output in _tensors(stock)),
    )
    _judge(model, check)
    return check


def _run(model: PreTrainedModel, implementation: str, inputs: Mapping[str, Any]) -> Any:
    with running(model, implementation), torch.inference_mode():
        return model(**inputs)


def _judge(model: PreTrainedModel, check: SelfCheck) -> None:
    name = type(model).__name__
    if not check.output_error <= check.output_limit:
        raise CaptureError(
            f"{name} computes something else while it is captured: outputs differ by {check.output_error:.2g} of "
            f"their maximum, expected at most {check.output_limit:.2g}; {check.reason or 'please report this model'}"
        )
    if check.pattern_error is not None and not check.pattern_error <= check.pattern_limit:
        raise CaptureError(
            f"{name}: attention rebuilt from captured queries and keys differs from the model's own by "
            f"{check.pattern_error:.2g}, expected at most {check.pattern_limit:.2g}; please report this model"
        )


def rebuild_pattern(call: AttentionCall) -> Tensor:
    """The pattern (b, h, q, k) of a call in fp64, by the definition in AttentionCall; rows that see nothing are 0."""
    groups = call.query.shape[1] // call.key.shape[1]
    key = call.key.double().repeat_interleave(groups, dim=1)
    score = call.scale * torch.matmul(call.query.double(), key.mT)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    if call.bias is not None:
        score = score + call.bias.double()
    position = torch.arange(key.shape[2], device=key.device)
    visible = (position >= call.lo[:, None, :, None]) & (position < call.hi[:, None, :, None])
    score = score.masked_fill(~visible, float("-inf"))
    if call.sink is not None:
        sink = call.sink.double()[None, :, None, None].expand(*score.shape[:3], 1)
        score = torch.cat([score, sink], dim=-1)
    nothing = (score == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(score.masked_fill(nothing, 0), dim=-1).masked_fill(nothing, 0)[..., : key.shape[2]]


def _real_rows(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The padding masks among the inputs, by stack ("encoder" also where there is one): (b, l), true at real tokens."""
    names = {"encoder": "attention_mask", "decoder": "decoder_attention_mask"}
    return {stack: inputs[name].bool() for stack, name in names.items() if name in inputs and inputs[name].dim() == 2}


def _output_error(ours: Any, theirs: Any, real: Mapping[str, Tensor]) -> float:
    """Largest difference of two outputs, relative to the largest number of the tensor it is in.

    Outputs of the shape of one of the ``real`` masks are compared at its real rows only: eager attention spreads a
    row that sees nothing over all keys, ours gives zeros there, and so padded rows differ.
    """
    worst = 0.0
    for one, other in zip(_tensors(ours), _tensors(theirs), strict=True):
        mask = next((mask for mask in real.values() if mask.shape == other.shape[:2]), None)
        if mask is not None:
            one, other = one[mask], other[mask]
        largest = float(other.double().abs().nan_to_num(0, 0, 0).max()) or 1.0
        worst = max(worst, _largest_difference(one, other) / largest)
    return worst


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """The floating tensors of a model's output, in order, however nested."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from _tensors(value)


def _largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Max |ours - theirs|; the same number or NaN in both is no difference, NaN in one of them is infinite."""
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if bool(same.all()):
        return 0.0
    return float((ours.double() - theirs.double()).abs()[~same].nan_to_num(float("inf")).max())


def _pattern_errors(
    sites: Sequence[Site], calls: list[AttentionCall], eager: list[Tensor | None], real: Mapping[str, Tensor]
) -> list[float]:
    """For each call whose eager pattern is known, the largest difference over real rows that see something."""
    errors = []
    for site, call, theirs in zip(sites, calls, eager, strict=True):
        if theirs is None:
            continue
        sees = call.hi > call.lo  # (b, q)
        mask = real.get(site.stack or "encoder")
        if mask is not None and mask.shape == sees.shape:
            sees = sees & mask.to(sees.device)
        rows = sees[:, None, :, None].expand(theirs.shape)
        errors.append(_largest_difference(rebuild_pattern(call)[rows], theirs[rows].double()))
    return errors


def _eager_patterns(model: PreTrainedModel, sites: Sequence[Site], inputs: Mapping[str, Any]) -> list[Tensor | None]:
    """The pattern (b, h, q, k) that each site's module returns under eager attention; None where it returns none."""
    found: dict[str, list[Tensor | None]] = defaultdict(list)
    with running(model, "eager"), torch.inference_mode(), _watching(model, sites, found):
        model(**inputs)
    return [found[site.module][site.ordinal] if site.ordinal < len(found[site.module]) else None for site in sites]


@contextmanager
def _watching(model: PreTrainedModel, sites: Sequence[Site], found: dict[str, list[Tensor | None]]) -> Iterator[None]:
    """Modules return their pattern beside their output; hooks on the sites' modules collect it, call by call."""

    def hook(site: Site) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            beside = outputs[1:] if isinstance(outputs, tuple) else ()
            patterns = [t for t in beside if isinstance(t, Tensor) and t.dim() == 4 and t.shape[1] == site.n_heads]
            found[site.module].append(patterns[-1] if patterns else None)

        return keep

    modules = dict(model.named_modules())
    first = {site.module: site for site in reversed(sites)}
    handles = [modules[name].register_forward_hook(hook(site)) for name, site in first.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
