"""Two videos compared: the proof beside the speed."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from fastvideo_core import RequestError, RunReport, settled_pixels
from fastvideo_core.pictures import difference, frame_panels, plot, side_by_side
from fastvideo_core.quality import account_json, compare, table, why_no_lpips

from .checked import checked
from .native.prompt import running_prompt
from .sockets import ANALYSIS, NOT_CONNECTED, RunReportSocket, connected

OVERSHOOT = 0.5
"""Cubic and Lanczos filters go over by up to a quarter; what is further out is no image in 0..1."""


class FastVideoCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoCompare",
            display_name="FastVideo Compare",
            category=ANALYSIS,
            description="How much faster one run was than another, how much its video differs (PSNR, SSIM and LPIPS, frame by "
            "frame), and how both move: slow motion, still frames, flicker, colour drift.",
            search_aliases=[
                "psnr", "ssim", "lpips", "a/b test", "quality", "side by side", "difference", "benchmark", "slow motion",
                "optical flow", "flicker", "compare",
            ],
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
                io.Image.Output(display_name="plot", tooltip="Each metric and the motion over the frames."),
                io.Image.Output(display_name="video", tooltip="Both videos next to each other, or their difference."),
                io.String.Output(display_name="json", tooltip="Every frame's figures and both reports, for programs."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, reference: Any, candidate: Any, view: str, amplify: float,
        reference_report: Any = NOT_CONNECTED, candidate_report: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        reports = (
            connected(reference_report),
            connected(candidate_report),
        )
        check_frames(reference, candidate)
        a, b = (as_shown(*named) for named in (("reference", reference), ("candidate", candidate)))
        no_lpips = why_no_lpips()
        comparison = compare(a, b, perceptual=no_lpips is None)
        notes = cut_off(reference=reference, candidate=candidate)
        notes += [] if no_lpips is None else [f"LPIPS was not measured: {no_lpips}"]
        text = "\n".join([table(comparison, *reports, prompt=running_prompt()), *notes])
        picture = plot(frame_panels({"candidate": comparison}))
        names = (named(*told) for told in zip(("reference", "candidate"), reports, strict=True))
        video = side_by_side(dict(zip(names, (a, b), strict=True))) if view == "side_by_side" else difference(a, b, amplify)
        outputs = (text, picture[None], video.movedim(1, -1), account_json(comparison, *reports))
        return io.NodeOutput(*outputs, ui=ui.PreviewText(text))


def named(name: str, report: RunReport | None) -> str:
    """A video's name, with the seconds of its sampling where they are known."""
    return name if report is None else f"{name}, {report.total_seconds:.1f} s"


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


def as_shown(name: str, video: torch.Tensor) -> torch.Tensor:
    """(T, 3, H, W) in 0..1, as people see it: what a resize makes overshoot is cut off whenever images are saved."""
    low, high = (float(value) for value in video.aminmax())
    if not (video.is_floating_point() and low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise RequestError(
            f"The {name} has values from {low:g} to {high:g} in {video.dtype}: images are floats in 0..1. Look at the node that "
            "made it."
        )
    return video.float().clamp(0, 1).movedim(-1, 1)


def cut_off(**videos: torch.Tensor) -> list[str]:
    """A line for each that is out of 0..1 by more than rounding."""
    ends = {name: video.aminmax() for name, video in videos.items() if settled_pixels(video) is None}
    return [f"{name}: values from {low:.3g} to {high:.3g} cut off at 0..1, as in saving" for name, (low, high) in ends.items()]


def _size(video: torch.Tensor) -> str:
    frames, height, width, _ = video.shape
    return f"{frames} frames of {width} x {height}"


NODES = [FastVideoCompare]
