"""Runs of FastVideo Sampler and of core's KSampler over core's own network of true size, on a GPU that is not there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from caching import flat_table, module_of
from named_waits import VALUES
from sampling import SETTINGS, ksampler_part
from torch import Tensor

from fastvideo_core import RunReport
from fastvideo_core.step_cache import Fingerprint
from fastvideo_core.wan.loading import original_keys
from fastvideo_core.wan.variants import VARIANTS, WanVariant
from tools.simulated import Flops, SimulatedGPU, Wait, Waits, simulated
from tools.simulated.checkpoints import IMAGE_DIM, TEXT_DIM, TrueSize
from tools.simulated.sparse import Flex

GIB = 2**30
ROOT = Path(__file__).resolve().parents[2]
ROWS = 100  # of a prompt


@dataclass
class Run:
    """What was looked at in one run. waits: of each step, and after the last one. weights: bytes of one expert; needed: what core
    counts on for a call over both branches; calls: their branches; kinds: dtypes of the sampler's latents."""

    weights: int = 0
    needed: float = 0
    waits: list[list[Wait]] = field(default_factory=list)
    peak: int = 0
    kinds: set[tuple[torch.dtype, str]] = field(default_factory=set)
    flops: Mapping[torch.dtype, int] = field(default_factory=dict)
    samples: Tensor | None = None
    report: RunReport | None = None


@contextmanager
def on_gpu(host: Any, memory: int) -> Iterator[SimulatedGPU]:
    """Core as on a computer with such a GPU. What is made of values is left out: a hash of the weights, and trials of kernels."""
    from comfy import model_management as core

    import fastvideo_core.attention.select as dense

    with ExitStack() as stack:
        gpu = stack.enter_context(simulated(memory))
        for owner, name, value in (
            (core, "cpu_state", core.CPUState.GPU),
            (core, "vram_state", core.VRAMState.NORMAL_VRAM),
            (core, "current_loaded_models", []),
            (dense, "faults", lambda *_: ()),
            (module_of(host, "native.sparse"), "prepare_kernel", lambda *_: Flex()),
            (module_of(host, "native.generation"), "fingerprint", lambda _: Fingerprint("0" * 16, {})),
            (module_of(host, "native.magcache"), "table_of", lambda _: flat_table("flat", None)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield gpu


def model_of(row: WanVariant, gpu: SimulatedGPU, layers: int) -> Any:
    """MODEL of core's loader, for a file of true width in bfloat16."""
    from comfy.sd import load_diffusion_model_state_dict

    with gpu.valueless():
        weights = original_keys(TrueSize.of(row).network(torch.bfloat16, layers).state_dict())
        return load_diffusion_model_state_dict({key: value.bfloat16() for key, value in weights.items()})


def prompt(size: TrueSize) -> list[Any]:
    """CONDITIONING as core's Wan nodes make it."""
    rows, extra = torch.zeros(1, 512, TEXT_DIM), {"pooled_output": None}
    rows[:, :ROWS] = 1
    if size.channels[0] > size.channels[1]:
        mask = torch.ones(1, 4, *size.shape[2:])
        mask[:, :, 0] = 0
        extra |= {"concat_latent_image": torch.zeros(1, 16, *size.shape[2:]), "concat_mask": mask}
    if size.image_tokens:
        from comfy.clip_vision import Output

        extra["clip_vision_output"] = Output()
        extra["clip_vision_output"].penultimate_hidden_states = torch.zeros(1, size.image_tokens, IMAGE_DIM)
    return [[rows, extra]]


def latent_of(size: TrueSize) -> dict[str, Tensor]:
    samples = torch.zeros(size.shape)
    if not size.first_frame:
        return {"samples": samples}
    mask = torch.ones(1, 1, *size.shape[2:])
    samples[:, :, :1], mask[:, :, :1] = 1.0, 0.0
    return {"samples": samples, "noise_mask": mask}


def rehearsed(
    host: Any,
    name: str,
    *,
    layers: int = 3,
    memory: int = 80 * GIB,
    nodes: Callable[[Any, Any], Any] = lambda host, model: model,
    sampler: str = "FastVideoSampler",
    **changes: Any,
) -> Run:
    """A whole run of three steps. nodes: what stands between loader and sampler; changes: of the sampler's inputs."""
    row, run = VARIANTS[name], Run()
    size = TrueSize.of(row)
    folders = [ROOT / "nodes", ROOT / "fastvideo_core", host.tree / "comfy"]
    with on_gpu(host, memory) as gpu, Flops() as flops, Waits(folders, VALUES) as waits, waits.synchronizing():
        names = ("model", "low_noise_model") if row.two_experts and sampler == "FastVideoSampler" else ("model",)
        models = {each: nodes(host, model_of(row, gpu, layers)) for each in names}
        run.weights, run.needed = models["model"].model_size(), models["model"].model.memory_required([2, *size.shape[1:]])
        given = {"positive": prompt(size), "negative": prompt(size), "latent": latent_of(size), "steps": 3, **changes}
        waits.found.clear()

        def step_done(step: int, denoised: Tensor, latents: Tensor, steps: int) -> None:
            run.waits.append(taken(waits))
            run.kinds |= {(each.dtype, each.device.type) for each in (denoised, latents)}

        with mock.patch("latent_preview.prepare_callback", lambda *_, **__: step_done):
            if sampler == "FastVideoSampler":
                asked = {**SETTINGS, "shift": row.shift, "guidance_scale": row.guidance_scale, **models, **given}
                output = host.node_classes[sampler].execute(**asked).args
                run.samples, run.report = output[0]["samples"], output[1]
            else:
                run.samples = ksampler_part(models["model"], row.guidance_scale, row.shift, sampler_name=sampler, **given)
        run.waits.append(taken(waits))
        run.flops, run.peak = flops.by_dtype, gpu.held.peak
    return run


def taken(waits: Waits) -> list[Wait]:
    found, waits.found = waits.found, []
    return found
