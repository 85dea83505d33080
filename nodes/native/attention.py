"""Chosen attention on a native MODEL: one wrapper, which puts an `Override` into the options of a generation."""

from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from fastvideo_core import Contribution
from fastvideo_core.attention import AttentionAccount, Situation, beside_exact, prepare, survey, takes_bias

from .blocks import has_own_kernel
from .diffusers_network import DiffusersNetwork
from .guard import guard_calls
from .override import KEY, NAME, OVERRIDE, NativeAttention, check_override, marked_call, own_kernel_notes
from .remote_network import remote_of
from .remote_work import RemoteRun, RemoteWork, with_remote_work
from .taking_part import Participant, taking_part
from .text import GenerationText, folds_of


def with_attention(model: Any, self_attention: str, cross_attention: str, fold_text: bool) -> Any:
    """A clone of the MODEL that computes attention with these backends. fold_text: see `GenerationText`.

    Raises:
        RequestError: a backend cannot run on this machine with this model, with every reason; or the MODEL has another
            attention on it.
        NumericsError: a backend gives wrong values here.
    """
    check_override(model.model_options, None)
    if remote_of(model) is not None:
        asked = {"self_attention": self_attention, "cross_attention": cross_attention, "fold_text": fold_text}
        return with_remote_work(model, RemoteWork(NAME, KEY, "attention", asked, _folds_of))
    attention = native_attention(situation_of(model), self_attention, cross_attention, fold_text)
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[OVERRIDE] = attention
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, AttentionWrapper(attention))
    if not isinstance(model.model.diffusion_model, DiffusersNetwork):  # which tells the two apart by itself
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.DIFFUSION_MODEL, KEY, marked_call, clone.model_options, is_model_options=True
        )
    return clone


def native_attention(situation: Situation, self_attention: str, cross_attention: str, fold_text: bool) -> NativeAttention:
    """Backends that were tried there; errors as of `with_attention`."""
    all_rows = _all_rows(cross_attention, situation, fold_text)
    across = situation if all_rows else replace(situation, mask="bias")
    own, cross = (beside_exact(prepare(*given)) for given in ((self_attention, situation), (cross_attention, across)))
    return NativeAttention(own, cross, all_rows)


def _folds_of(guider: Any, *_: Any) -> RemoteRun:
    """What the workers cannot know of a run: its prompts."""
    return RemoteRun({"folds": folds_of(guider)})


def situation_of(model: Any) -> Situation:
    """Where a Wan MODEL computes attention."""
    network = model.model.diffusion_model
    return Situation.on(model.load_device, model.model.get_dtype_inference(), network.dim // network.num_heads)


def _all_rows(cross_attention: str, situation: Situation, fold_text: bool) -> str:
    """Why all rows of the text are to be read; empty where the zero ones are to be folded."""
    if not fold_text:
        return "as asked"
    return "" if takes_bias(cross_attention, situation) else f"{cross_attention} takes no bias"


def offered() -> dict[str, tuple[str, ...]]:
    """Every backend and why it cannot run on this machine with Wan's head_dim, those that can first."""
    return survey(this_machine())


def this_machine() -> Situation:
    """Where ComfyUI computes, with Wan's head_dim."""
    device = comfy.model_management.get_torch_device()
    return Situation.on(device, torch.float32 if device.type == "cpu" else torch.bfloat16, 128)


@dataclass(frozen=True)
class AttentionWrapper:
    """Core's OUTER_SAMPLE wrapper: one call is one generation."""

    attention: NativeAttention

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        check_override(guider.model_options, self.attention)
        text = GenerationText.of(guider, self.attention.all_rows)
        override = self.attention.override(text)
        has_own = has_own_kernel(guider.model_patcher.model.diffusion_model)
        with taking_part(guider, AttentionPart(override.account, text, has_own)):
            guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
            guider.model_options["transformer_options"][OVERRIDE] = override
            guard_calls(guider.model_options, KEY, NAME, lambda: override.account.network_calls > 0)
            result = executor(*args, **kwargs)
            text.check()
        return result


@dataclass(frozen=True, eq=False)
class AttentionPart(Participant):
    """A generation's attention, by which its report tells. has_own: see `has_own_kernel`."""

    account: AttentionAccount
    text: GenerationText
    has_own: bool

    def contribution(self, expert: Any) -> Contribution:
        core = comfy.ldm.modules.attention.optimized_attention.__name__
        started = [] if core == "attention_pytorch" else [core]
        replaced = (f"ComfyUI was started with {name}, which {NAME} replaces on its MODEL" for name in started)
        return Contribution(
            attention=self.account.reports(expert),
            texts=self.text.reports(expert),
            notes=(*replaced, *own_kernel_notes(NAME, self.has_own)),
        )
