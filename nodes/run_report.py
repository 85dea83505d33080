"""The run report: made from a finished generation, and shown on the canvas."""

import time
from typing import Any

import psutil
import torch
from comfy_api.latest import io, ui

from fastvideo_core import RunReport, SamplingRequest, phase_reports

from .sockets import CATEGORY, RunReportSocket


class Stopwatch:
    """Times and peak memory of one run. On the CPU the process's memory is looked at after every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = time.perf_counter()
        self.laps: list[float] = []
        self._peak = psutil.Process().memory_info().rss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def lap(self, seconds: float) -> None:
        self.laps.append(seconds)
        if self.device.type == "cpu":
            self._peak = max(self._peak, psutil.Process().memory_info().rss)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def peak_bytes(self) -> int | None:
        """Peak of allocated device memory, or of the process where the device is the CPU; None on other devices."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return self._peak if self.device.type == "cpu" else None


def native_report(guider: Any, request: SamplingRequest, shape: tuple[int, ...], stopwatch: Stopwatch) -> RunReport:
    """The report of a run on native MODELs. guider: a WanGuider after sampling."""
    run = guider.run
    variants = guider.facts.variants(guider.low_noise is not None)
    return RunReport(
        model=guider.facts.name,
        variant=" or ".join(row.title for row in variants) or "not a published size",
        solver=request.solver,
        sigmas=run.schedule.sigmas,
        guidance_mode=request.guidance.mode,
        guidance_reason=_ran_as(run.guidance.calls),
        phases=phase_reports(run.guidance),
        latent_shape=shape,
        device=str(guider.model_patcher.load_device),
        dtype=str(guider.model_patcher.model.get_dtype_inference()).removeprefix("torch."),
        seed=request.seed,
        step_seconds=tuple(stopwatch.laps),
        total_seconds=stopwatch.seconds,
        peak_memory_bytes=stopwatch.peak_bytes,
        notes=tuple(_notes(request, variants, run.extra_calls)),
    )


def _ran_as(calls: Any) -> str:
    kinds = {len(set(call.branches)) for call in calls if len(calls)}
    guided = {call.step for call in calls if "negative" in call.branches}
    if not guided:
        return "off: every guidance scale is 1"
    joined = all(len(set(call.branches)) == 2 for call in calls if call.step in guided)
    if joined:
        return "both branches in one call"
    return (
        "one branch per call"
        if kinds == {1}
        else "both branches in one call in some steps only: memory was short in the others"
    )


def _notes(request: SamplingRequest, variants: Any, extra_calls: int) -> list[str]:
    notes = []
    if extra_calls:
        notes.append(f"patches of other packs added {extra_calls} passes of their own")
    published = {(row.shift, row.boundary) for row in variants}
    asked = (request.shift, request.boundary)
    if variants and request.sigmas is None and request.steps > 8 and asked not in published:
        rows = "; ".join(
            f"{row.title}: shift {row.shift:g}" + (f", boundary {row.boundary:g}" if row.boundary else "")
            for row in variants
        )
        notes.append(f"shift or boundary differ from the published ones ({rows})")
    return notes


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
            inputs=[RunReportSocket.Input("report", tooltip="From FastVideo Sampler.")],
            outputs=[
                io.String.Output(display_name="text", tooltip="The report as it is shown."),
                io.String.Output(display_name="json", tooltip="The whole report for programs."),
            ],
        )

    @classmethod
    def execute(cls, report: RunReport) -> io.NodeOutput:
        return io.NodeOutput(report.text(), report.json(), ui=ui.PreviewText(report.text()))


NODES = [FastVideoRunReport]
