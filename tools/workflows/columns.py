"""What the workflows share: a text and what the video starts from, and the columns that all of them have."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.workflows.canvas import Canvas, Node, Socket

# Five columns that are readable side by side on a small screen.
NOTE_WIDTH, MODELS_WIDTH, PROMPT_WIDTH, SAMPLER_WIDTH, VIDEO_WIDTH = 370, 350, 330, 330, 380
TEXT_HEIGHT, REPORT_HEIGHT = 200, 220
SAMPLER_HEIGHT, PHASE_SAMPLER_HEIGHT, PLAYER_HEIGHT = 620, 480, 400  # leave room for the preview and the player

Prompts = tuple[str | Socket, str]
"""Positive and negative."""


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


@dataclass(frozen=True)
class Conditions:
    """nodes: from the text on; sampled: the inputs of samplers that come out of them."""

    nodes: Sequence[Node]
    sampled: dict[str, Socket]


def from_noise(canvas: Canvas, loaded: Loaded, prompts: Prompts, size: VideoSize) -> Conditions:
    """A video that starts from noise alone."""
    text = prompt(canvas, loaded, prompts)
    empty = canvas.node("EmptyHunyuanLatentVideo", **vars(size))
    return Conditions([text, empty], _sampled(text, empty["LATENT"]))


def from_image(canvas: Canvas, loaded: Loaded, prompts: Prompts, size: VideoSize, image: Socket) -> Conditions:
    """A video whose first frame is given."""
    text = prompt(canvas, loaded, prompts)
    seen = [_seen(canvas, loaded, image)] if loaded.clip_vision is not None else []
    tokens = {"clip_vision_output": seen[0]["CLIP_VISION_OUTPUT"]} if seen else {}
    made = canvas.node(
        "WanImageToVideo", positive=text["positive"], negative=text["negative"], vae=loaded.vae, start_image=image,
        **tokens, **vars(size),
    )  # fmt: skip
    return Conditions([text, *seen, made], _sampled(made, made["latent"]))


def from_two_images(canvas: Canvas, loaded: Loaded, prompts: Prompts, size: VideoSize, first: Socket, last: Socket) -> Conditions:
    """A video whose first and last frame are given."""
    text = prompt(canvas, loaded, prompts)
    seen = [_seen(canvas, loaded, image) for image in (first, last)]
    made = canvas.node(
        "WanFirstLastFrameToVideo", positive=text["positive"], negative=text["negative"], vae=loaded.vae,
        clip_vision_start_image=seen[0]["CLIP_VISION_OUTPUT"], clip_vision_end_image=seen[1]["CLIP_VISION_OUTPUT"],
        start_image=first, end_image=last, **vars(size),
    )  # fmt: skip
    return Conditions([text, *seen, made], _sampled(made, made["latent"]))


def from_latent_image(canvas: Canvas, loaded: Loaded, prompts: Prompts, size: VideoSize, image: Socket) -> Conditions:
    """A video whose first frame is given as a latent, once the node that loads it is no longer bypassed."""
    text = prompt(canvas, loaded, prompts)
    latent = canvas.node("Wan22ImageToVideoLatent", vae=loaded.vae, start_image=image, **vars(size))
    return Conditions([text, latent], _sampled(text, latent["LATENT"]))


def video_column(canvas: Canvas, sampler: Node, vae: Socket, fps: int, outputs: tuple[str, str] = ("latent", "report")) -> None:
    """What comes after a sampler, to the report and the saved file. outputs: of the sampler."""
    latent, told = (sampler[name] for name in outputs)
    frames = canvas.node("VAEDecode", samples=latent, vae=vae)
    report = canvas.node("FastVideoRunReport", at_least=REPORT_HEIGHT, report=told, images=frames["IMAGE"])
    canvas.column(VIDEO_WIDTH, ("Video", [frames, *saved(canvas, frames["IMAGE"], fps)]), ("Report", [report]))


def saved(canvas: Canvas, images: Socket, fps: int, height: int = PLAYER_HEIGHT) -> list[Node]:
    """A video of images, and the node that saves and shows it."""
    video = canvas.node("CreateVideo", images=images, fps=fps)
    return [video, canvas.node("SaveVideo", at_least=height, video=video["VIDEO"], filename_prefix=f"fastvideo/{canvas.name}")]


def prompt(canvas: Canvas, loaded: Loaded, prompts: Prompts) -> Node:
    positive, negative = prompts
    return canvas.node("FastVideoTextEncode", at_least=TEXT_HEIGHT, clip=loaded.clip, positive=positive, negative=negative)


def _seen(canvas: Canvas, loaded: Loaded, image: Socket) -> Node:
    return canvas.node("CLIPVisionEncode", clip_vision=loaded.clip_vision, image=image, crop="none")


def _sampled(branches: Node, latent: Socket) -> dict[str, Socket]:
    return {"positive": branches["positive"], "negative": branches["negative"], "latent": latent}
