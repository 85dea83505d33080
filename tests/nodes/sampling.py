"""Conditions and latents for the tiny networks of `tiny_wan`, and the samplers that are compared: ours and core's."""

from collections import Counter
from typing import Any

import torch
from tiny_wan import conditioning
from torch import Tensor

FRAMES, SIDE = 3, 8
SETTINGS: dict[str, Any] = {
    "seed": 3, "steps": 8, "shift": 5.0, "solver": "euler", "guidance_scale": 4.0, "low_noise_guidance_scale": 3.0,
    "boundary": 0.875, "guidance_mode": "auto", "gate": 1.0, "guidance_rescale": 0.0,
}  # fmt: skip
CHANNELS = {"ti2v": 48}
CLIP_TOKENS = {"i2v_clip": 257, "flf2v": 514}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent_of(kind: str, frames: int = FRAMES, side: int = SIDE) -> dict[str, Tensor]:
    """LATENT as core's nodes give it: zeros, and for TI2V a first frame with its mask."""
    samples = torch.zeros(1, CHANNELS.get(kind, 16), frames, side, side)
    if kind != "ti2v":
        return {"samples": samples}
    mask = torch.ones(1, 1, frames, side, side)
    samples[:, :, :1], mask[:, :, :1] = normal(20, 1, 48, 1, side, side), 0.0
    return {"samples": samples, "noise_mask": mask}


def conditions_of(kind: str, frames: int = FRAMES, side: int = SIDE) -> tuple[list[Any], list[Any]]:
    """Positive and negative CONDITIONING as core's Wan nodes give them."""
    extra: dict[str, Any] = {}
    if kind in ("i2v", "i2v_clip", "flf2v"):
        mask = torch.ones(1, 4, frames, side, side)
        mask[:, :, 0] = 0.0
        if kind == "flf2v":
            mask[:, -1, -1] = 0.0
        extra |= {"concat_latent_image": normal(21, 1, 16, frames, side, side), "concat_mask": mask}
    if kind in CLIP_TOKENS:
        from comfy.clip_vision import Output

        extra["clip_vision_output"] = Output()
        extra["clip_vision_output"].penultimate_hidden_states = normal(22, 1, CLIP_TOKENS[kind], 1280)
    return conditioning(1, **extra), conditioning(2, **extra)


def run_node(host: Any, model: Any, kind: str = "t2v", low_noise_model: Any = None, **changes: Any) -> tuple[Tensor, Any]:
    """FastVideo Sampler. Returns samples and report. `changes`: settings, or other inputs of the node."""
    positive, negative = conditions_of(kind)
    inputs = {**SETTINGS, "positive": positive, "negative": negative, "latent": latent_of(kind), **changes}
    second = {} if low_noise_model is None else {"low_noise_model": low_noise_model}
    output = host.node_classes["FastVideoSampler"].execute(model=model, **second, **inputs)
    return output.args[0]["samples"], output.args[1]


def run_ksampler(
    model: Any, kind: str = "t2v", sampler: str = "euler", cfg: float = 4.0, shift: float = 5.0, **changes: Any
) -> Tensor:
    """Core's KSampler with ModelSamplingSD3 before it, scheduler `simple`."""
    positive, negative = conditions_of(kind)
    inputs = {"positive": positive, "negative": negative, "latent": latent_of(kind), "sampler_name": sampler, **changes}
    return ksampler_part(model, cfg, shift, **inputs)


def run_chain(high: Any, low: Any, kind: str, first_steps: int, steps: int = 8, latent: Any = None, **prompts: Any) -> Tensor:
    """Two chained KSamplerAdvanced at scales 4 and 3, as people run Wan 2.2 without a node for two experts."""
    positive, negative = conditions_of(kind)
    latent = latent_of(kind) if latent is None else latent
    common = {"steps": steps, "sampler_name": "euler", "positive": positive, "negative": negative, **prompts}
    middle = ksampler_part(high, 4.0, latent=latent, start_step=0, last_step=first_steps, **common)
    rest = {"start_step": first_steps, "last_step": steps, "disable_noise": True, "force_full_denoise": True}
    return ksampler_part(low, 3.0, latent={**latent, "samples": middle}, **rest, **common)


def ksampler_part(model: Any, cfg: float, shift: float = 5.0, **inputs: Any) -> Tensor:
    """Core's, with ModelSamplingSD3 before it: the steps from `start_step` to `last_step`."""
    import nodes

    inputs = {"steps": 8, "seed": 3, "scheduler": "simple", **inputs}
    return nodes.common_ksampler(model=shifted(model, shift), cfg=cfg, **inputs)[0]["samples"]


def run_guider(guider: Any, sampler: Any, sigmas: Tensor, kind: str = "t2v", seed: int | None = 3, latent: Any = None) -> Tensor:
    """Core's SamplerCustomAdvanced. sampler: a SAMPLER or core's name of one; seed None: no noise."""
    from comfy_extras.nodes_custom_sampler import DisableNoise, RandomNoise, SamplerCustomAdvanced

    core = core_sampler(sampler) if isinstance(sampler, str) else sampler
    latent = latent_of(kind) if latent is None else latent
    noise = (DisableNoise.execute() if seed is None else RandomNoise.execute(seed)).args[0]
    return SamplerCustomAdvanced.execute(noise, guider, core, sigmas, latent).args[0]["samples"]


def core_guider(model: Any, kind: str = "t2v", cfg: float = 4.0) -> Any:
    from comfy.samplers import CFGGuider

    guider = CFGGuider(model)
    guider.set_conds(*conditions_of(kind))
    guider.set_cfg(cfg)
    return guider


def core_sampler(name: str) -> Any:
    from comfy.samplers import sampler_object

    return sampler_object(name)


def shifted(model: Any, shift: float) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, shift)[0]


def sigmas_of(steps: int = 8, shift: float = 5.0) -> Tensor:
    """Wan's noise levels: evenly spaced, then shifted."""
    plain = torch.linspace(1, 0, steps + 1)
    return shift * plain / (1 + (shift - 1) * plain)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference||, in float64."""
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())


class Calls:
    """Counts what runs around a MODEL: kind of wrapper -> calls, and the branches in each call of the network."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.branches: list[int] = []

    def on(self, model: Any, *kinds: str) -> Any:
        """A clone of the MODEL with counting wrappers of these kinds; of all when none is named."""
        from comfy.patcher_extension import WrappersMP

        names = [name for name in vars(WrappersMP) if name.isupper()]
        clone = model.clone()
        for name in kinds or names:
            clone.add_wrapper_with_key(getattr(WrappersMP, name), "calls", self._wrapper(name))
        return clone

    def _wrapper(self, name: str) -> Any:
        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            if name == "DIFFUSION_MODEL":
                self.branches.append(args[0].shape[0])
            return executor(*args, **kwargs)

        return wrapper


def core_node(host: Any, name: str, **inputs: Any) -> Any:
    """First output of a core node, of the old kind or of the new."""
    node = host.node_classes[name]
    return node.execute(**inputs).args[0] if hasattr(node, "define_schema") else getattr(node(), node.FUNCTION)(**inputs)[0]
