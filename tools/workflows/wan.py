"""The workflows of the published Wan checkpoints, with the settings of their authors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastvideo_core.wan import VARIANTS, WanVariant
from tools.workflows import models
from tools.workflows.canvas import Canvas, Model, ObjectInfo, PackVersions
from tools.workflows.columns import Loaded, VideoSize, image_columns, noise_columns, optional_image_columns, sampling_columns

FOX = "A fox runs through deep snow between dark pines, low winter sun behind it, powder flying, the camera follows at its side."
TURN = "The subject of the picture slowly turns towards the camera, soft wind, natural light, the background stays still."
# The negative prompt of Wan's authors: sample_neg_prompt in Wan-Video/Wan2.1 wan/configs/shared_config.py.
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
IMAGE = "example.png"  # ComfyUI comes with it
NOTE_SIZE, LOADER_SIZE = (440, 440), (420, 0)


@dataclass(frozen=True)
class WanFiles:
    """transformers: the high-noise expert first where there are two."""

    variant: WanVariant
    transformers: Sequence[Model]

    @property
    def vae(self) -> Model:
        return models.VAE_2_2 if self.variant.latent_channels == 48 else models.VAE_2_1

    @property
    def clip_vision(self) -> Model | None:
        return models.CLIP_VISION if self.variant.image_tokens else None

    @property
    def all(self) -> list[Model]:
        files = [*self.transformers, models.UMT5, self.vae]
        return files if self.clip_vision is None else [*files, self.clip_vision]


WAN_WORKFLOWS = {
    "wan2.1_t2v_1.3B": WanFiles(VARIANTS["wan2.1_t2v_1.3B"], [models.T2V_1_3B]),
    "wan2.1_i2v_14B": WanFiles(VARIANTS["wan2.1_i2v_480p_14B"], [models.I2V_480P]),
    "wan2.2_t2v_A14B": WanFiles(VARIANTS["wan2.2_t2v_A14B"], [models.T2V_HIGH_NOISE, models.T2V_LOW_NOISE]),
    "wan2.2_i2v_A14B": WanFiles(VARIANTS["wan2.2_i2v_A14B"], [models.I2V_HIGH_NOISE, models.I2V_LOW_NOISE]),
    "wan2.2_ti2v_5B": WanFiles(VARIANTS["wan2.2_ti2v_5B"], [models.TI2V_5B]),
}


def wan_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """The workflow of a published checkpoint: what the variant is decides what stands between the prompt and the sampler."""
    files = WAN_WORKFLOWS[name]
    variant = files.variant
    canvas = Canvas(name, object_info, packs)
    canvas.note(_about(files), NOTE_SIZE)
    loaded = _models_column(canvas, files)
    size = VideoSize(variant.width, variant.height, variant.frames)
    if variant.first_frame:
        conditions = optional_image_columns(canvas, loaded, (FOX, NEGATIVE), size, IMAGE)
    elif variant.in_channels > variant.latent_channels:
        conditions = image_columns(canvas, loaded, (TURN, NEGATIVE), size, IMAGE)
    else:
        conditions = noise_columns(canvas, loaded, (FOX, NEGATIVE), size)
    sampling_columns(canvas, loaded, variant.fps, **conditions, **_settings(variant))
    return canvas


def _models_column(canvas: Canvas, files: WanFiles) -> Loaded:
    experts = [canvas.node("UNETLoader", size=LOADER_SIZE, models=[file], unet_name=file.name) for file in files.transformers]
    clip = canvas.node("CLIPLoader", models=[models.UMT5], clip_name=models.UMT5.name, type="wan")
    vae = canvas.node("VAELoader", models=[files.vae], vae_name=files.vae.name)
    nodes, clip_vision = [*experts, clip, vae], None
    if files.clip_vision is not None:
        nodes.append(canvas.node("CLIPVisionLoader", models=[files.clip_vision], clip_name=files.clip_vision.name))
        clip_vision = nodes[-1]["CLIP_VISION"]
    canvas.column("Models", *nodes)
    return Loaded([expert["MODEL"] for expert in experts], clip["CLIP"], vae["VAE"], clip_vision)


def _settings(variant: WanVariant) -> dict[str, Any]:
    """Inputs of the sampler."""
    settings = {"steps": variant.steps, "shift": variant.shift, "solver": "unipc", "guidance_scale": variant.guidance_scale}
    if variant.two_experts:
        settings |= {"low_noise_guidance_scale": variant.low_noise_guidance_scale, "boundary": variant.boundary}
    return settings


def _about(files: WanFiles) -> str:
    variant = files.variant
    guidance = f"guidance scale {variant.guidance_scale:g}"
    if variant.two_experts:
        guidance += f" (high noise) and {variant.low_noise_guidance_scale:g} (low noise), boundary {variant.boundary:g}"
    grid = 2 * variant.spatial
    return "\n".join([
        f"## {variant.title}",
        f"{variant.width} x {variant.height}, {variant.frames} frames at {variant.fps} per second, with the settings of Wan's "
        f"authors: {variant.steps} steps of unipc, shift {variant.shift:g}, {guidance}.",
        "",
        "### Files",
        "ComfyUI offers to download those that are missing, or put them there yourself:",
        *(f"- `models/{file.directory}`: [{file.name}]({file.url})" for file in files.all),
        "",
        "### To change",
        f"Width and height are multiples of {grid}, the number of frames is a multiple of 4 plus 1. Fewer of each need less time "
        "and memory.",
        *_hints(variant),
    ])  # fmt: skip


def _hints(variant: WanVariant) -> list[str]:
    if variant.first_frame:
        return ["", "To start from a picture, select *Load Image* and press Ctrl+B: it is bypassed as the workflow comes."]
    if variant.name == "wan2.1_i2v_480p_14B":
        larger = VARIANTS["wan2.1_i2v_720p_14B"]
        return ["", f"For the 720P checkpoint: {larger.width} x {larger.height} and shift {larger.shift:g}."]
    return []
