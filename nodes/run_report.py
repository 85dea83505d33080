"""The run report: made from a finished generation, and shown on the canvas."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context
from server import PromptServer

from fastvideo_core import ROUNDING, Guidance, RunReport, SparseReport, is_one, phase_reports

from .attached import attached
from .attention_override import attention_notes, attention_reports, text_reports
from .checked import checked
from .diffusers_lora import model_loras
from .diffusers_network import DiffusersNetwork
from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, connected
from .wan_model import expert_notes


class Stopwatch:
    """Times and peak memory of one run. On the CPU the process's memory is looked at after every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = self._last = time.perf_counter()
        self.laps: list[float] = []
        self._process = psutil.Process()
        self._peak = self._process.memory_info().rss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        """The first expert's weights are loaded; the first step begins."""
        self.started = self._last = time.perf_counter()

    def lap(self) -> None:
        """A step is done; on a GPU its work is at least queued (see `fastvideo_core.denoise`)."""
        now = time.perf_counter()
        self.laps.append(now - self._last)
        self._last = now
        if self.device.type == "cpu":
            self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def seconds(self) -> float:
        """Since the first step began; a second expert is loaded within its first step."""
        return time.perf_counter() - self.started

    @property
    def peak_bytes(self) -> int | None:
        """Peak of allocated device memory, or of the process where the device is the CPU; None on other devices."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return self._peak if self.device.type == "cpu" else None


def native_report(guider: Any, run: Any, sampler: Any, seed: int, shape: tuple[int, ...]) -> RunReport:
    """The report of a finished NativeRun of a WanGuider. sampler: the core SAMPLER that drove it."""
    variants = guider.facts.variants(guider.low_noise is not None)
    mode, reason = _ran_as(run.guidance)
    sparse = tuple(report for expert in (guider, guider.low_noise) for report in run.sparse.get(expert, ()))
    caches = [run.caches[expert] for expert in (guider, guider.low_noise) if expert in run.caches]
    return RunReport(
        model=guider.facts.name,
        variant=" or ".join(row.title for row in variants) or "not a published size",
        solver=_solver_name(sampler),
        sigmas=run.schedule.sigmas,
        guidance_mode=mode,
        guidance_reason=reason,
        phases=phase_reports(run.guidance),
        latent_shape=shape,
        device=str(guider.model_patcher.load_device),
        dtype=str(guider.model_patcher.model.get_dtype_inference()).removeprefix("torch."),
        seed=seed,
        step_seconds=tuple(run.stopwatch.laps),
        total_seconds=run.stopwatch.seconds,
        peak_memory_bytes=run.stopwatch.peak_bytes,
        notes=(
            *guider.notes, *_expert_notes(guider, run),
            *_notes(run, guider.settings, variants), *_part_notes(run), *attention_notes(run),
            *(note for cache in caches for note in cache.notes()),
            *(run.compiled[expert].note() for expert in (guider, guider.low_noise) if expert in run.compiled),
            *_unused_training(guider, sparse),
            *_partial_loras(guider),
        ),
        caches=tuple(cache.report() for cache in caches),
        attention=attention_reports(run, guider),
        sparse=sparse,
        texts=text_reports(run, guider),
        patches=tuple(name for expert in (guider, guider.low_noise) if expert for name in attached(expert.model_patcher)),
        prompt=running_prompt(),
    )  # fmt: skip


def _solver_name(sampler: Any) -> str:
    """ "euler" of core's sampler function `sample_euler`; the class of a sampler that is none of core's."""
    function = getattr(sampler, "sampler_function", sampler)
    return str(getattr(function, "__name__", type(function).__name__)).removeprefix("sample_")


def _ran_as(guidance: Guidance) -> tuple[str, str]:
    """How the guided steps ran, and why."""
    guided = {call.step for call in guidance.calls if "negative" in call.branches}
    if not guided:
        return "off", "no step ran the negative branch"
    apart = {call.step for call in guidance.calls if call.step in guided and len(set(call.branches)) < 2}
    if guidance.settings.mode != "auto":
        return ("sequential" if apart else "batched"), "as asked"
    if not apart:
        return "batched", "auto: ComfyUI joins the branches when 1.5 times the estimated memory is free"
    if apart == guided:
        return "sequential", "auto: ComfyUI ran the branches apart, for want of memory or because their shapes differ"
    return f"batched in {len(guided - apart)} of {len(guided)} guided steps", "auto: ComfyUI was short of memory in the others"


def _expert_notes(guider: Any, run: Any) -> tuple[str, ...]:
    low_noise = None if guider.low_noise is None else guider.low_noise.model_patcher
    whole = run.adds_noise and is_one(run.schedule.sigmas[0]) and run.schedule.sigmas[-1] <= ROUNDING
    return expert_notes(guider.model_patcher, low_noise, guider.facts, whole)


def _notes(run: Any, settings: Any, variants: Any) -> list[str]:
    notes = []
    if run.extra_calls:
        notes.append(f"patches of other packs added {run.extra_calls} passes of their own")
    published = {(row.shift, row.boundary) for row in variants}
    if settings.shift and run.schedule.steps > 8 and published and (settings.shift, settings.boundary) not in published:
        rows = "; ".join(
            f"{row.title}: shift {row.shift:g}" + (f", boundary {row.boundary:g}" if row.boundary else "") for row in variants
        )
        notes.append(f"shift or boundary differ from the published ones ({rows})")
    return notes


def _part_notes(run: Any) -> list[str]:
    """Where the noise of a part of a run comes from, and what becomes of it."""
    first, last = run.schedule.sigmas[0], run.schedule.sigmas[-1]
    notes = []
    if not run.adds_noise:
        notes.append(f"no noise was added: the latent was taken to have that of noise level {first:.4g}")
    elif not is_one(first):
        notes.append(f"noise was added to the latent, up to noise level {first:.4g}")
    if last > ROUNDING:
        notes.append(f"the latent has the noise of level {last:.4g} left, for a sampler that goes on there and adds none")
    return notes


def _unused_training(guider: Any, reports: tuple[SparseReport, ...]) -> tuple[str, ...]:
    """Only diffusers' network has a place for such weights."""
    models = [expert.model_patcher for expert in (guider, guider.low_noise) if expert is not None]
    networks = [model.model.diffusion_model for model in models]
    transformers = [network.transformer for network in networks if isinstance(network, DiffusersNetwork)]
    if not transformers:
        return ()
    from fastvideo_core.wan.loading import trained_with, unused_training  # imports diffusers, which takes seconds

    return unused_training([variant for network in transformers for variant in trained_with(network)], reports)


def _partial_loras(guider: Any) -> Iterator[str]:
    """Of LoRAs that FastVideo Load Diffusers Model added: those of which a part was ignored."""
    for expert in (guider, guider.low_noise):
        loras = () if expert is None else model_loras(expert.model_patcher)
        yield from (lora.line() for lora in loras if lora.ignored)


def running_prompt() -> str | None:
    """ComfyUI's name of the prompt that runs now; None where none came through its execution."""
    context = get_executing_context()
    return None if context is None else str(context.prompt_id)


def seconds_since_queued() -> float | None:
    """Of the prompt that runs now, without waiting for prompts before it; None where none came through ComfyUI's queue."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    queue = getattr(server, "prompt_queue", None)
    if context is None or queue is None:
        return None
    running, _ = queue.get_current_queue_volatile()
    created = [item[3].get("create_time") for item in running if item[1] == context.prompt_id]
    if not created or created[0] is None:
        return None
    return time.time() - max(created[0], _others_ended(queue)) / 1000


def _others_ended(queue: Any) -> float:
    """When the prompt before this one ended, in ms; 0 where ComfyUI's history has none."""
    last = queue.get_history(max_items=1).values()
    messages = [message for entry in last for _, message in (entry.get("status") or {}).get("messages", ())]
    return max((message.get("timestamp", 0) for message in messages), default=0)


class FastVideoRunReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoRunReport",
            display_name="FastVideo Run Report",
            category=CATEGORY,
            description="Shows what a run did: model, steps per expert, batched or not, gate, seconds per step, peak memory.",
            search_aliases=["benchmark", "timing", "seconds per step", "vram"],
            is_output_node=True,
            inputs=[
                RunReportSocket.Input("report", tooltip="From FastVideo Sampler."),
                io.Image.Input(
                    "images", optional=True,
                    tooltip="The decoded frames: the report then waits for them and says how long the whole prompt took.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The report as it is shown."),
                io.String.Output(display_name="json", tooltip="The whole report for programs."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, report: RunReport, images: Any = NOT_CONNECTED) -> io.NodeOutput:
        if connected(images) is not None:
            report = replace(report, prompt_seconds=seconds_since_queued())
        return io.NodeOutput(report.text(), report.json(), ui=ui.PreviewText(report.text()))


NODES = [FastVideoRunReport]
