"""FastVideo Phase and FastVideo Phase Sampler on the tiny networks, and chains of core's samplers beside them."""

from pathlib import Path
from typing import Any

from sampling import SETTINGS, conditions_of, ksampler_part, latent_of
from tiny_wan import save_lora
from torch import Tensor

RUN = {name: SETTINGS[name] for name in ("seed", "steps", "shift", "solver", "guidance_mode", "gate", "guidance_rescale")}
Given = tuple[Any, float, float]
"""MODEL, until, guidance scale."""


def phases_of(host: Any, *given: Given) -> Any:
    phases: dict[str, Any] = {}
    for model, until, scale in given:
        node = host.node_classes["FastVideoPhase"]
        phases = {"phases": node.execute(model=model, until=until, guidance_scale=scale, **phases).args[0]}
    return phases["phases"]


def run_phases(host: Any, *given: Given, kind: str = "t2v", **changes: Any) -> tuple[Tensor, Any]:
    """Samples and report of FastVideo Phase Sampler."""
    positive, negative = conditions_of(kind)
    inputs = {**RUN, "positive": positive, "negative": negative, "latent": latent_of(kind), **changes}
    latent, report = host.node_classes["FastVideoPhaseSampler"].execute(phases=phases_of(host, *given), **inputs).args
    return latent["samples"], report


def kept(host: Any, name: str) -> Path:
    """The file of a state that was saved under this name."""
    return Path(host.model_folder("fastvideo_states")) / f"{name}.safetensors"


def with_lora(host: Any, model: Any, strength: float = 1.0) -> Any:
    """By core's loader."""
    from comfy.sd import load_lora_for_models
    from safetensors.torch import load_file

    return load_lora_for_models(model, None, load_file(save_lora(host.model_folder("loras"))), strength, 0)[0]


def chained(*given: tuple[Any, int, int, float], kind: str = "t2v", **prompts: Any) -> Tensor:
    """Core's KSampler (Advanced) one after the other, as people run phases without us. given: MODEL, first step, last, scale."""
    positive, negative = conditions_of(kind)
    prompts, latent = {"positive": positive, "negative": negative, **prompts}, latent_of(kind)
    for model, first, last, scale in given:
        samples = ksampler_part(
            model, scale, latent=latent, steps=8, sampler_name="euler", start_step=first, last_step=last,
            disable_noise=first > 0, force_full_denoise=last == 8, **prompts,
        )  # fmt: skip
        latent = {**latent, "samples": samples}
    return samples
