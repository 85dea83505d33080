"""The run report, shown on the canvas."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from fastvideo_core import RunReport, writing
from fastvideo_core.pictures import run_picture

from .checked import checked
from .native.prompt import seconds_since_queued
from .sockets import ANALYSIS, NOT_CONNECTED, RunReportSocket, connected


class FastVideoRunReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoRunReport",
            display_name="FastVideo Run Report",
            category=ANALYSIS,
            description="Shows what a run did, in words and as a picture: model, steps per expert, batched or not, gate, seconds "
            "of each step, peak memory, and what would make it faster.",
            search_aliases=["benchmark", "timing", "seconds per step", "vram", "report", "profile", "seconds", "memory"],
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
                io.Image.Output(
                    display_name="picture", tooltip="The run at one look: a bar for each step, as high as its seconds."
                ),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, report: RunReport, images: Any = NOT_CONNECTED) -> io.NodeOutput:
        if connected(images) is not None:
            report = replace(report, prompt_seconds=seconds_since_queued())
        picture = run_picture(report)[None]
        with writing(Path(folder_paths.get_temp_directory())):
            saved = ui.PreviewImage(picture, cls=cls).as_dict()["images"]
        return io.NodeOutput(report.text(), report.json(), picture, ui={"text": (report.text(),), "picture": saved})


NODES = [FastVideoRunReport]
