"""The two samplers that ComfyUI's user can choose between, on the same weights in the same process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.comfy_in_process import ComfyInProcess

from .contenders import Contender, Task

ROOT = Path(__file__).resolve().parents[2]


def comfyui_contenders(task: Task, file: Path, tree: Path, base: Path) -> list[Contender]:
    """Core's KSampler and the pack's sampler node, called as ComfyUI's executor calls them."""
    host = ComfyInProcess(tree, base)
    host.load_pack(ROOT)
    import comfy.sd
    import comfy.utils

    comfy.utils.set_progress_bar_global_hook(None)  # nobody listens
    comfy.utils.PROGRESS_BAR_ENABLED = False
    model = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": task.size.dtype})
    conditionings = [[[text, {"pooled_output": None}]] for text in task.texts()]
    latent = {"samples": torch.zeros(task.size.shape)}
    attending = host.node_classes["FastVideoAttention"].execute(model, "auto", "auto")[0]
    core, network = "ComfyUI KSampler", model.model.diffusion_model
    return [
        Contender(core, core, network, ksampler(task, host, model, conditionings, latent)),
        Contender("FastVideo Sampler", core, network, fastvideo_sampler(task, host, model, conditionings, latent)),
        Contender(f"{core}, FastVideo Attention", core, network, ksampler(task, host, attending, conditionings, latent)),
    ]


def ksampler(task: Task, host: ComfyInProcess, model: Any, conditionings: list[Any], latent: Any) -> Callable[[], Tensor]:
    node = host.node_classes["KSampler"]()
    (shifted,) = host.node_classes["ModelSamplingSD3"]().patch(model, task.shift)

    @torch.inference_mode()
    def run() -> Tensor:
        settings = (task.seed, task.steps, task.guidance_scale, "euler", "simple")
        (video,) = node.sample(shifted, *settings, *conditionings, latent)
        return normalised(model, video)

    return run


def fastvideo_sampler(
    task: Task, host: ComfyInProcess, model: Any, conditionings: list[Any], latent: Any, gate: float = 1.0
) -> Callable[[], Tensor]:
    node: Any = host.node_classes["FastVideoSampler"]
    positive, negative = conditionings
    request = task.request("auto")
    settings = {
        "seed": request.seed, "steps": request.steps, "shift": request.shift, "solver": request.solver,
        "guidance_scale": request.guidance_scale, "guidance_mode": request.guidance.mode, "gate": gate,
        "guidance_rescale": request.guidance.rescale, "low_noise_guidance_scale": 3.0, "boundary": 0.875,
    }  # fmt: skip

    @torch.inference_mode()
    def run() -> Tensor:
        return normalised(model, node.execute(model=model, positive=positive, negative=negative, latent=latent, **settings)[0])

    return run


def normalised(model: Any, latent: Any) -> Tensor:
    video: Tensor = model.model.process_latent_in(latent["samples"])
    return video
