"""Where core joins the branches of a prediction: the guidance patches of other packs act there, as under core's samplers."""

from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
from torch import Tensor

from fastvideo_core import Branch, Phase, guide

CFG_PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


@dataclass
class Evaluation:
    """Where a prediction stands: what core hands a guider, the expert at work, and the calls made so far. combining: while
    patches of other packs join the branches, maybe with passes of their own."""

    expert: Any
    timestep: Tensor
    sigma: float
    phase: Phase
    latents: Tensor
    options: dict[str, Any]
    calls: list[tuple[Branch, ...]] = field(default_factory=list)
    combining: bool = False


def patched(evaluation: Evaluation) -> bool:
    """Whether other packs have a say in it."""
    return any(evaluation.options.get(name) for name in CFG_PATCHES)


def rescaling(rescale: float) -> dict[str, Any]:
    """Our rescale as what core calls a cfg function, for where core joins the branches."""
    if rescale == 0:
        return {}
    return {"sampler_cfg_function": lambda a: guide(a["cond"], a["uncond"], a["cond_scale"], rescale)}


def host_guided(evaluation: Evaluation) -> Tensor:
    """Core's own guidance, at the scale that stands on the guider. Returns the clean latents (B, C, T, H, W)."""
    expert, conds = evaluation.expert, evaluation.expert.conds
    denoised: Tensor = comfy.samplers.sampling_function(
        expert.inner_model, evaluation.latents, evaluation.timestep, conds["negative"], conds["positive"], expert.cfg,
        evaluation.options,
    )  # fmt: skip
    return denoised


def host_combined(evaluation: Evaluation, positive: Tensor, negative: Tensor, scale: float, ran: bool) -> Tensor:
    """Core's own combination of velocities (B, C, T, H, W), which calls the guidance patches of other packs. ran: whether the
    negative branch did."""
    x, sigma, options, model = evaluation.latents, evaluation.sigma, evaluation.options, evaluation.expert.inner_model
    conds = [evaluation.expert.conds["positive"], evaluation.expert.conds["negative"] if ran else None]
    outputs = [x - sigma * positive, x - sigma * negative]
    evaluation.combining = True
    try:
        for patch in options.get("sampler_pre_cfg_function", []):
            outputs = patch({"conds": conds, "conds_out": outputs, "cond_scale": scale, "timestep": evaluation.timestep,
                             "input": x, "sigma": evaluation.timestep, "model": model, "model_options": options})  # fmt: skip
        denoised = comfy.samplers.cfg_function(
            model, outputs[0], outputs[1], scale, x, evaluation.timestep, options, cond=conds[0], uncond=conds[1]
        )
    finally:
        evaluation.combining = False
    return (x - denoised) / sigma
