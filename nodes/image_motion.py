"""More motion from one start image, for runs that came out slow."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import ConditioningError, amplified

from .checked import checked
from .sockets import CONDITIONING

IMAGE, MASK = "concat_latent_image", "concat_mask"
"""Core's keys of a start image in a CONDITIONING."""


class FastVideoImageMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoImageMotion",
            display_name="FastVideo Image Motion",
            category=CONDITIONING,
            description="Makes a video from one start image move more, by PainterI2V's formula; for few-step runs that are slow.",
            search_aliases=["slow motion", "painter", "motion amplitude", "i2v", "wan", "more motion"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From WanImageToVideo with one start image."),
                io.Conditioning.Input("negative", tooltip="From the same node."),
                io.Float.Input(
                    "amplitude", default=1.15, min=1.0, max=2.0, step=0.05,
                    tooltip="1 changes nothing. More moves more and follows the prompt less; look at FastVideo Compare's motion.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the changed image condition."),
                io.Conditioning.Output(display_name="negative", tooltip="With the changed image condition."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, positive: list[Any], negative: list[Any], amplitude: float) -> io.NodeOutput:
        return io.NodeOutput(*(_moved(name, each, amplitude) for name, each in (("positive", positive), ("negative", negative))))


def _moved(branch: str, conditioning: list[Any], amplitude: float) -> list[Any]:
    return [[text, _with_motion(branch, given, amplitude)] for text, given in conditioning]


def _with_motion(branch: str, given: dict[str, Any], amplitude: float) -> dict[str, Any]:
    frames, mask = given.get(IMAGE), given.get(MASK)
    if frames is None or mask is None:
        raise ConditioningError(f"The {branch} has no start image. Connect WanImageToVideo's, with its start_image.")
    if frames.shape[1] != 16 or bool((mask[:, :, 1:] < 1).any()):
        raise ConditioningError(
            f"The {branch} is given more than one start image, and only the frames of one are moved away from it. Use "
            "WanImageToVideo with one image, or leave this node out."
        )
    return {**given, IMAGE: amplified(frames, amplitude)}


NODES = [FastVideoImageMotion]
