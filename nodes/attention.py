"""FastVideo Attention: which kernel computes self- and cross-attention of one MODEL."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from fastvideo_core.attention import BACKENDS, Situation, beside_exact, impossible, prepare, survey, takes_bias

from .attention_override import KEY, NAME, OVERRIDE, NativeAttention, check_override, marked_call, own_kernel_notes
from .checked import checked
from .diffusers_network import DiffusersNetwork
from .folded_text import GenerationText
from .guider import WanGuider
from .low_noise import LowNoiseExpert
from .network_guard import guard_calls
from .sockets import CATEGORY
from .wan_model import wan_facts


def with_attention(model: Any, self_attention: str, cross_attention: str, fold_text: bool) -> Any:
    """A clone of the MODEL that computes attention with these backends. fold_text: see `GenerationText`.

    Raises:
        RequestError: a backend cannot run on this machine with this model, with every reason; or the MODEL has another
            attention on it.
        NumericsError: a backend gives wrong values here.
    """
    check_override(model.model_options, None)
    situation = situation_of(model)
    all_rows = _all_rows(cross_attention, situation, fold_text)
    across = situation if all_rows else replace(situation, mask="bias")
    own, cross = (beside_exact(prepare(*given)) for given in ((self_attention, situation), (cross_attention, across)))
    attention = NativeAttention(own, cross, all_rows)
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[OVERRIDE] = attention
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, AttentionWrapper(attention))
    if not isinstance(model.model.diffusion_model, DiffusersNetwork):  # which tells the two apart by itself
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.DIFFUSION_MODEL, KEY, marked_call, clone.model_options, is_model_options=True
        )
    return clone


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
        own_options = guider.model_options
        check_override(own_options, self.attention)
        text = GenerationText(guider, self.attention.all_rows)
        override = self.attention.override(text)
        guider.model_options = comfy.model_patcher.create_model_options_clone(own_options)
        guider.model_options["transformer_options"][OVERRIDE] = override
        guard_calls(guider.model_options, KEY, NAME, lambda: override.account.network_calls > 0)
        ours = isinstance(guider, WanGuider | LowNoiseExpert)
        if ours:
            guider.run.attention[guider], guider.run.texts[guider] = override.account, text
        try:
            result = executor(*args, **kwargs)
        finally:
            guider.model_options = own_options
        text.check()
        if not ours:
            lines = [line for part in override.account.reports("single") for line in part.lines()]
            lines += (part.line() for part in text.reports("single"))
            logging.info("%s", "\n".join([*lines, *own_kernel_notes(NAME, guider.model_patcher)]))
        return result


class FastVideoAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        backends = offered()
        return io.Schema(
            node_id="FastVideoAttention",
            display_name="FastVideo Attention",
            category=CATEGORY,
            description="Chooses what computes attention on this model and tries it before the run; the run report says what ran "
            "how often.",
            search_aliases=["sage attention", "flash attention", "xformers", "sdpa", "attention backend", "flex attention"],
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; each expert of Wan 2.2 gets a node of its own."),
                io.Combo.Input(
                    "self_attention", options=["auto", *backends], default="auto",
                    tooltip="Among the video's own tokens: most of the time of a long video. auto: the first exact kernel that "
                    "runs here. Any other: that one, or an error that says why not. " + _missing(backends),
                ),
                io.Combo.Input(
                    "cross_attention", options=["auto", *backends], default="auto",
                    tooltip="From the video to the prompt, and to image tokens where the model reads any.",
                ),
                io.Boolean.Input(
                    "fold_text", default=True, optional=True,
                    tooltip="The zero rows that fill a prompt up to 512 count as two rows that weigh as much: less work, and the "
                    "same video but for rounding. Off: all rows are read.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For FastVideo Sampler, FastVideo Guider and core's samplers.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, self_attention: str = "auto", cross_attention: str = "auto") -> bool | str:
        """ComfyUI asks before anything of the prompt runs: a dense video would be made before this node says no."""
        for name, asked in (("self_attention", self_attention), ("cross_attention", cross_attention)):
            if asked not in ("auto", *BACKENDS):
                return f"{name}: {asked!r} is none of auto, {', '.join(BACKENDS)}"
            reasons = () if asked == "auto" else impossible(asked, this_machine())
            if reasons:
                return f"{name}: {asked} cannot run on this machine: it {'; it '.join(reasons)}. Choose another one, or auto"
        return True

    @classmethod
    @checked
    def execute(cls, model: Any, self_attention: str, cross_attention: str, fold_text: bool = True) -> io.NodeOutput:
        wan_facts(model)  # refuses what is not Wan
        return io.NodeOutput(with_attention(model, self_attention, cross_attention, fold_text))


def _missing(backends: Mapping[str, tuple[str, ...]]) -> str:
    reasons = [f"{name} {'; '.join(why)}" for name, why in backends.items() if why]
    return f"Not on this machine: {'. '.join(reasons)}." if reasons else "All run on this machine."


NODES = [FastVideoAttention]
