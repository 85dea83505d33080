"""The run report, shown on the canvas."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from fastvideo_core import RunReport

from .checked import checked
from .native.prompt import seconds_since_queued
from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, connected


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
