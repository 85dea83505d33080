"""Where chosen attention meets a generation on a native MODEL: core's `optimized_attention_override`.

Core calls one function for self- and for cross-attention (to text, and to image tokens) and says nothing of which it is; lengths
do not tell either, for a video may have as many tokens as the text has rows. So for the duration of a call of the network its
self-attention modules mark their own calls.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvideo_core import RequestError
from fastvideo_core.attention import Attention, AttentionAccount

from .blocks import attention_blocks, wrapped_forwards
from .call import CALL, NetworkCall, lent
from .guard import check_asked
from .text import GenerationText, bias_of, reading

NAME = "FastVideo Attention"
KEY = "fastvideo_attention"
OVERRIDE = "optimized_attention_override"
SPARSE = "fastvideo_sparse_session"
"""Among a call's transformer options: the `SparseSession` of its self-attention."""


class Override:
    """What core calls in the place of its own attention, in one generation. text: its prompts; None outside of one."""

    def __init__(self, account: AttentionAccount, text: GenerationText | None = None) -> None:
        self.account, self.text = account, text

    def __call__(self, function: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
                 attn_precision: Any = None, skip_reshape: bool = False, skip_output_reshape: bool = False,
                 **options: Any) -> Tensor:  # fmt: skip
        """Core's arguments: q, k, v are (B, L, H * D), or with skip_reshape (B, H, L, D); so is the output, with
        skip_output_reshape."""
        call = _call_in(options.pop("transformer_options", None) or {})
        call.attention = True
        counted = self.account.self_attention if call.own else self.account.cross_attention
        scale = options.pop("scale", None)
        attend = counted if options.pop("low_precision_attention", True) else counted.exactly
        check_call(NAME, counted.attention.choice.backend, q, mask, attn_precision, options)
        q, k, v = (by_head(x, heads, skip_reshape) for x in (q, k, v))
        out: Tensor = attend(q, k, v, bias_of(call, k.shape[1]), scale)
        return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)


def _call_in(options: dict[str, Any]) -> NetworkCall:
    call: NetworkCall | None = options.get(CALL)
    if call is None:
        raise RequestError(
            "FastVideo Attention got a call from outside the network's forward and cannot tell self- from cross-attention in "
            "it: this sampler or this kind of Wan network calls its blocks by itself. Remove FastVideo Attention here."
        )
    return call


@dataclass(frozen=True)
class NativeAttention:
    """What the node puts on a MODEL: core's override for calls outside of a generation, and what a generation makes its own
    from. all_rows: why texts are not to be folded; empty where they are."""

    self_attention: Attention
    cross_attention: Attention
    all_rows: str

    def override(self, text: GenerationText | None = None) -> Override:
        return Override(AttentionAccount.of(self.self_attention, self.cross_attention), text)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.override()(*args, **kwargs)


class CoreAttention:
    """As an override of core's attention: itself, as a piece of its own among compiled code."""

    def __init__(self) -> None:
        self._apart = torch.compiler.disable(lambda function, *args, **kwargs: function(*args, **kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._apart(*args, **kwargs)


def override_in(options: dict[str, Any]) -> Override | None:
    """What this node put among a call's transformer options; None where it did not."""
    override = options.get(OVERRIDE)
    if isinstance(override, NativeAttention):
        return override.override()
    return override if isinstance(override, Override) else None


def marked_call(executor: Any, x: Any, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
                transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
    """Core's DIFFUSION_MODEL wrapper: one call of the network, counted, with its self-attention marked and its text folded."""
    network, override = executor.class_obj, override_in(transformer_options)
    text = None if override is None else override.text
    if override is not None:
        override.account.network_calls += 1
    call = NetworkCall()
    marks = [(block.self_attn, partial(_own, call=call)) for _, block in attention_blocks(network)]
    with lent(transformer_options, **{CALL: call}), wrapped_forwards(marks), reading(network, text, context, call):
        out = executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)
    check_asked(NAME, network, call)
    return out


def _own(forward: Callable[..., Any], call: NetworkCall) -> Callable[..., Any]:
    """Self-attention marks its calls, around whatever other packs put there."""

    def own(*args: Any, **kwargs: Any) -> Any:
        call.own = call.self_attention = True
        out = forward(*args, **kwargs)
        call.own = False
        return out

    return own


def by_head(x: Tensor, heads: int, skip_reshape: bool) -> Tensor:
    """Core's q, k or v as (B, L, H, D)."""
    return x.transpose(1, 2) if skip_reshape else x.unflatten(-1, (heads, -1))


def check_override(model_options: dict[str, Any], ours: NativeAttention | None) -> None:
    """Raises RequestError where the options have another attention than `ours`."""
    present = model_options.get("transformer_options", {}).get(OVERRIDE)
    if present is ours:
        return
    if isinstance(present, NativeAttention):
        raise RequestError("There are two FastVideo Attention nodes on one MODEL: remove or bypass one of the two.")
    if present is None:
        raise RequestError("A node after FastVideo Attention took its attention off the MODEL: remove or bypass that node.")
    raise other_attention("FastVideo Attention", present)


def other_attention(node: str, present: Any) -> RequestError:
    other = _name_of(present)
    return RequestError(f"{node} and {other} are on one MODEL, which can only have one: remove or bypass one of the two nodes.")


def _name_of(override: Any) -> str:
    """Of attention that is not ours."""
    named = override if hasattr(override, "__qualname__") else type(override)
    if is_core_backend(override):
        return "core's Model Attention Backend"
    if named.__module__.endswith("nodes_sparse_attention"):
        return "core's Model Sparse Attention"
    return f"another pack's attention ({named.__module__}.{named.__qualname__})"


def others_notes(models: Sequence[Any]) -> Iterator[str]:
    """Which attention other nodes put on these MODELs."""
    for model in models:
        other = model.model_options.get("transformer_options", {}).get(OVERRIDE)
        if other is not None and not isinstance(other, NativeAttention | Override | CoreAttention):
            kernel = f", {core_backend_of(other)}" if is_core_backend(other) else ""
            yield f"{_name_of(other)} was on the MODEL{kernel}"


def is_core_backend(override: Any) -> bool:
    """Whether newer cores' node Model Attention Backend put it on the MODEL. It calls one attention function of core."""
    return getattr(override, "__qualname__", "").startswith("ModelPatcher.set_model_optimized_attention.")


def core_backend_of(override: Any) -> str:
    """The name of that function."""
    return str(inspect.getclosurevars(override).nonlocals["optimized_attention"].__name__)


def own_kernel_notes(node: str, has_own: bool) -> tuple[str, ...]:
    """What the node leaves out of a MODEL whose file brings an attention of its own."""
    told = f"the model's file asks for int8 attention of its own (comfy_attention), which does not run under {node}"
    return (told,) if has_own else ()


def check_call(node: str, name: str, q: Tensor, mask: Tensor | None, precision: Any, options: dict[str, Any]) -> None:
    """What a call asks for beyond q, k and v. node: what put `name` on the MODEL; options: those that nobody has read."""
    if mask is not None:
        raise RequestError(
            f"A patch of another pack gives the model's attention a mask, and {name} was prepared for calls without one, as "
            f"Wan's are. Remove that patch or {node}."
        )
    if precision not in (None, q.dtype):
        raise RequestError(f"The model asks for attention in {precision} and computes in {q.dtype}: {name} runs in the latter.")
    unread = [key for key, value in options.items() if key != "_inside_attn_wrapper" and value not in (None, False)]
    if unread:
        raise RequestError(f"The model asks attention for {', '.join(unread)}, which {node} does not know.")
