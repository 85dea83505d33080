"""The columns that the workflows share, from left to right: prompt, image conditions or an empty latent, sampling, video.

Those of the prompt return the inputs of the sampler that come out of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.workflows.canvas import Canvas, Node, Socket

TEXT_SIZE = (420, 360)
IMAGE_SIZE = (340, 340)
SAMPLER_SIZE = (360, 640)  # leaves room for the preview
REPORT_SIZE = (360, 260)
VIDEO_SIZE = (480, 600)  # leaves room for the player


@dataclass(frozen=True)
class Loaded:
    """The sockets of the loaders; `experts`: one transformer, or the high-noise and the low-noise one."""

    experts: Sequence[Socket]
    clip: Socket
    vae: Socket
    clip_vision: Socket | None = None


@dataclass(frozen=True)
class VideoSize:
    width: int
    height: int
    length: int


def noise_columns(canvas: Canvas, loaded: Loaded, prompts: tuple[str, str], size: VideoSize) -> dict[str, Socket]:
    """The prompt and the size of a video that starts from noise alone."""
    text = _text(canvas, loaded, prompts)
    empty = canvas.node("EmptyHunyuanLatentVideo", **vars(size))
    canvas.column("Prompt and size", text, empty)
    return {"positive": text["positive"], "negative": text["negative"], "latent": empty["LATENT"]}


def image_columns(canvas: Canvas, loaded: Loaded, prompts: tuple[str, str], size: VideoSize, image: str) -> dict[str, Socket]:
    """The prompt, the first frame, and what WanImageToVideo makes of them."""
    text = _text(canvas, loaded, prompts)
    first_frame = canvas.node("LoadImage", size=IMAGE_SIZE, image=image)
    canvas.column("Prompt and first frame", text, first_frame)
    return _from_image(canvas, loaded, text, first_frame["IMAGE"], size)


def given_image_columns(
    canvas: Canvas, loaded: Loaded, prompts: tuple[str, str], size: VideoSize, first_frame: Socket
) -> dict[str, Socket]:
    """The same of a first frame that a node before gives."""
    text = _text(canvas, loaded, prompts)
    canvas.column("Prompt", text)
    return _from_image(canvas, loaded, text, first_frame, size)


def optional_image_columns(
    canvas: Canvas, loaded: Loaded, prompts: tuple[str, str], size: VideoSize, image: str
) -> dict[str, Socket]:
    """The prompt, and a latent whose first frame is the image once that node is no longer bypassed."""
    text = _text(canvas, loaded, prompts)
    canvas.column("Prompt", text)
    first_frame = canvas.node("LoadImage", size=IMAGE_SIZE, bypassed=True, image=image)
    latent = canvas.node("Wan22ImageToVideoLatent", vae=loaded.vae, start_image=first_frame["IMAGE"], **vars(size))
    canvas.column("First frame (bypassed) and size", first_frame, latent)
    return {"positive": text["positive"], "negative": text["negative"], "latent": latent["LATENT"]}


def sampling_columns(canvas: Canvas, loaded: Loaded, fps: int, **sampling: Any) -> None:
    """From the sampler to the report and the saved file. sampling: inputs of the sampler."""
    experts = dict(zip(("model", "low_noise_model"), loaded.experts, strict=False))
    video_columns(canvas, canvas.node("FastVideoSampler", size=SAMPLER_SIZE, **experts, **sampling), loaded.vae, fps)


def video_columns(canvas: Canvas, sampler: Node, vae: Socket, fps: int) -> None:
    """A sampler, and what comes after it."""
    frames = canvas.node("VAEDecode", samples=sampler["latent"], vae=vae)
    report = canvas.node("FastVideoRunReport", size=REPORT_SIZE, report=sampler["report"], images=frames["IMAGE"])
    canvas.column("Sampling", sampler, report)
    video = canvas.node("CreateVideo", images=frames["IMAGE"], fps=fps)
    save = canvas.node("SaveVideo", size=VIDEO_SIZE, video=video["VIDEO"], filename_prefix=f"fastvideo/{canvas.name}")
    canvas.column("Video", frames, video, save)


def _text(canvas: Canvas, loaded: Loaded, prompts: tuple[str, str]) -> Node:
    positive, negative = prompts
    return canvas.node("FastVideoTextEncode", size=TEXT_SIZE, clip=loaded.clip, positive=positive, negative=negative)


def _from_image(canvas: Canvas, loaded: Loaded, text: Node, first_frame: Socket, size: VideoSize) -> dict[str, Socket]:
    """The column of WanImageToVideo, with the image tokens where the model reads them."""
    nodes, tokens = [], {}
    if loaded.clip_vision is not None:
        nodes = [canvas.node("CLIPVisionEncode", clip_vision=loaded.clip_vision, image=first_frame, crop="none")]
        tokens = {"clip_vision_output": nodes[0]["CLIP_VISION_OUTPUT"]}
    conditions = canvas.node(
        "WanImageToVideo", positive=text["positive"], negative=text["negative"], vae=loaded.vae,
        start_image=first_frame, **tokens, **vars(size),
    )  # fmt: skip
    canvas.column("Image conditions and size", *nodes, conditions)
    return {name: conditions[name] for name in ("positive", "negative", "latent")}
