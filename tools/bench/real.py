"""What a guided step takes at a real size, through every way to it: random weights, in one process, within a time limit."""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvideo_core import FastVideoError
from fastvideo_core.wan.loading import load_transformer
from tools.comfy_in_process import ComfyInProcess

from .clock import peak_bytes, seconds_of
from .comfyui import ROOT, fastvideo_sampler, ksampler
from .contenders import Task, engine, pipeline
from .measure import distance
from .sizes import SIZES, write_weights

Run = Callable[[], Tensor]
Make = Callable[[Task], Run]
"""Of a task, what does it once."""

FIRST = "ComfyUI KSampler"
"""The one that all others are compared with."""
SAMPLER = "FastVideo Sampler"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way. step_seconds: of a run divided by its steps, None where it did not run; first_seconds: of the run of one step
    before it, which loads and compiles; peak_bytes: above what was held before; difference: relative L2 distance of the latents
    from KSampler's; why: it did not run."""

    name: str
    step_seconds: float | None = None
    first_seconds: float | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    why: str = ""


def run(device: str, size: str, steps: int, minutes: float) -> list[Measured]:
    """Each way once, the most telling ones first. One that would not end in time does not begin, and is named."""
    tree = os.environ.get("COMFYUI_PATH")
    if not tree:
        raise SystemExit("ComfyUI's samplers are measured too: use `make bench`, or set COMFYUI_PATH to a ComfyUI folder.")
    end = time.perf_counter() + 60 * minutes
    task = Task(SIZES[size], steps, torch.device(device))
    measured: list[Measured] = []
    reference: Tensor | None = None
    with tempfile.TemporaryDirectory() as folder:
        file = write_weights(task.size, Path(folder), task.device)
        host = ComfyInProcess(Path(tree).resolve(), Path(folder) / "comfyui")
        host.load_pack(ROOT)
        for name, make in _ways(task, file, host):
            slowest = max((each.step_seconds or 0 for each in measured), default=0)
            if time.perf_counter() + (steps + 1) * slowest > end:
                measured.append(Measured(name=name, why=f"no time was left of {minutes:g} minutes"))
                continue
            found, video = _measured(name, make, task)
            reference = video if reference is None else reference
            measured.append(found if video is None else replace(found, difference=distance(video, reference)))
            print(f"{name}: {found.why or f'{found.step_seconds:.3f} s a step'}", flush=True)
    return measured


def _measured(name: str, make: Make, task: Task) -> tuple[Measured, Tensor | None]:
    videos: list[Tensor] = []
    try:
        first = seconds_of(make(replace(task, steps=1)), task.device)
        whole = make(task)
        spent: list[float] = []
        peak = peak_bytes(lambda: spent.append(seconds_of(lambda: videos.append(whole()), task.device)), task.device)
    except (FastVideoError, RuntimeError) as error:  # out of memory is a RuntimeError
        return Measured(name=name, why=str(error).splitlines()[0]), None
    return Measured(name=name, step_seconds=spent[0] / task.steps, first_seconds=first, peak_bytes=peak), videos[0]


def _ways(task: Task, file: Path, host: ComfyInProcess) -> Iterator[tuple[str, Make]]:
    """ComfyUI's network is let go before the engine's is loaded: one copy of the weights is on the device at a time."""
    yield from _in_comfyui(task, file, host)
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()
    network = load_transformer(file, task.size.dtype).to(task.device)
    yield "engine, batched", lambda task: engine(task, network, "batched")
    yield "engine, sequential", lambda task: engine(task, network, "sequential")
    yield "diffusers WanPipeline", lambda task: pipeline(task, network)


def _in_comfyui(task: Task, file: Path, host: ComfyInProcess) -> Iterator[tuple[str, Make]]:
    import comfy.sd
    import comfy.utils

    comfy.utils.set_progress_bar_global_hook(None)  # nobody listens
    comfy.utils.PROGRESS_BAR_ENABLED = False
    model = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": task.size.dtype})
    texts = [[[text, {"pooled_output": None}]] for text in task.texts()]
    latent = {"samples": torch.zeros(task.size.shape)}

    def sampled(accelerated: Callable[[], Any], gate: float = 1.0) -> Make:
        built = cache(accelerated)  # when its turn has come, so that one which cannot be made is one row's failure
        return lambda task: fastvideo_sampler(task, host, built(), texts, latent, gate)

    def with_node(name: str, model: Any, **inputs: Any) -> Any:
        return host.node_classes[f"FastVideo{name}"].execute(model=model, **inputs)[0]

    @cache
    def attending() -> Any:
        return with_node("Attention", model, self_attention="auto", cross_attention="auto")

    yield FIRST, lambda task: ksampler(task, host, model, texts, latent)
    yield SAMPLER, sampled(lambda: model)
    yield f"{SAMPLER}, Attention", sampled(attending)
    yield f"{SAMPLER}, Attention, Compile", sampled(lambda: with_node("Compile", attending(), enabled=True))
    yield f"{SAMPLER}, gate 0.5", sampled(lambda: model, gate=0.5)
    yield f"{SAMPLER}, DBCache that skips every second step", sampled(lambda: with_node("DBCache", model, **EVERY_SECOND_STEP))
    for variant in SPARSE:
        name = f"{SAMPLER}, {variant['variant']} sparsity {variant['sparsity']:g}"
        yield name, sampled(partial(with_node, "SparseAttention", model, variant=variant, **SPARSE_SCHEDULE))


EVERY_SECOND_STEP: Mapping[str, Any] = {
    "enabled": True,
    "preset": {
        "preset": "custom", "threshold": 0.99, "first_blocks": 1, "last_blocks": 0, "warmup_steps": 1, "max_skips": 1,
        "max_skipped_steps": 0, "taylor_order": 0,
    },
    "residuals_on_cpu": False,
}  # fmt: skip
"""Whatever the random weights give: what a skipped step costs is measured, not how many a real model allows."""
SPARSE: tuple[Mapping[str, Any], ...] = (
    {"variant": "VSA", "sparsity": 0.9},
    {"variant": "SLA", "sparsity": 0.9, "feature_map": "softmax"},
)
SPARSE_SCHEDULE: Mapping[str, Any] = {"enabled": True, "dense_steps": 0, "dense_layers": 0, "kernel": "flex"}
