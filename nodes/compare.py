"""Two videos compared: the proof beside the speed."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from fastvideo_core import RequestError, RunReport
from fastvideo_core.quality import (
    account_json,
    compare,
    difference,
    frame_panels,
    plot,
    side_by_side,
    table,
    why_no_lpips,
)

from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, check_connected, connected


class FastVideoCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoCompare",
            display_name="FastVideo Compare",
            category=CATEGORY,
            description="How much faster one run was than another, and how much its video differs: PSNR, SSIM and LPIPS, frame "
            "by frame.",
            search_aliases=["psnr", "ssim", "lpips", "a/b test", "quality", "side by side", "difference", "benchmark"],
            is_output_node=True,
            inputs=[
                io.Image.Input("reference", tooltip="The video to compare with: without the cache, of the same seed."),
                io.Image.Input("candidate", tooltip="The video in question: with the cache."),
                io.Combo.Input(
                    "view", options=["side_by_side", "difference"], default="side_by_side",
                    tooltip="What the video output shows: both next to each other, or how far each pixel is off.",
                ),
                io.Float.Input(
                    "amplify", default=4.0, min=1.0, max=100.0, step=1.0,
                    tooltip="Factor on the difference, which is hardly visible otherwise; only for view difference.",
                ),
                RunReportSocket.Input("reference_report", optional=True, tooltip="The reference's, from FastVideo Sampler."),
                RunReportSocket.Input("candidate_report", optional=True, tooltip="The candidate's, from FastVideo Sampler."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The table as it is shown."),
                io.Image.Output(display_name="plot", tooltip="Each metric over the frames."),
                io.Image.Output(display_name="video", tooltip="Both videos next to each other, or their difference."),
                io.String.Output(display_name="json", tooltip="Every frame's figures and both reports, for programs."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, reference: Any, candidate: Any, view: str, amplify: float,
        reference_report: Any = NOT_CONNECTED, candidate_report: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        check_connected(reference=(reference, torch.Tensor), candidate=(candidate, torch.Tensor))
        reports = (
            connected("reference_report", reference_report, RunReport),
            connected("candidate_report", candidate_report, RunReport),
        )
        check_frames(reference, candidate)
        a, b = (video.movedim(-1, 1) for video in (reference, candidate))
        no_lpips = why_no_lpips()
        comparison = compare(a, b, perceptual=no_lpips is None)
        text = table(comparison, *reports) + ("" if no_lpips is None else f"\nLPIPS was not measured: {no_lpips}")
        picture = plot(frame_panels(comparison))
        video = side_by_side(a, b) if view == "side_by_side" else difference(a, b, amplify)
        outputs = (text, picture[None], video.movedim(1, -1), account_json(comparison, *reports))
        return io.NodeOutput(*outputs, ui=ui.PreviewText(text))


def check_frames(reference: torch.Tensor, candidate: torch.Tensor) -> None:
    """Both (T, H, W, 3), of the same size and with something in them."""
    for name, video in (("reference", reference), ("candidate", candidate)):
        if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
            raise RequestError(
                f"The {name} is an image batch of shape {tuple(video.shape)}: comparing needs (frames, height, width, 3) with at "
                "least one frame. Connect VAE Decode; of images with transparency take the colours alone."
            )
    if reference.shape != candidate.shape:
        raise RequestError(
            f"The reference has {_size(reference)} and the candidate {_size(candidate)}: only videos of one size and length can "
            "be compared frame by frame. Make both with the same width, height and length."
        )


def _size(video: torch.Tensor) -> str:
    frames, height, width, _ = video.shape
    return f"{frames} frames of {width} x {height}"


NODES = [FastVideoCompare]
