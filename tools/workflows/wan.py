"""The workflows of the published Wan checkpoints: as their authors sample them, with the pack's speed, and one switch back."""

from collections.abc import Sequence
from typing import Any

from fastvideo_core.wan import VARIANTS, WanVariant
from tools.workflows import columns, models, wan_notes, wan_notes_zh
from tools.workflows.bilingual import bilingual
from tools.workflows.canvas import GAP, GROUP_BOTTOM, GROUP_TITLE, TITLE, Canvas, Node, ObjectInfo, PackVersions, Socket
from tools.workflows.columns import Conditions, Loaded
from tools.workflows.memory import published_table
from tools.workflows.wan_files import WanFiles

FOX = "A fox runs through deep snow between dark pines, low winter sun behind it, powder flying, the camera follows at its side."
TURN = "The subject of the picture slowly turns towards the camera, soft wind, natural light, the background stays still."
# The negative prompt of Wan's authors: sample_neg_prompt in Wan-Video/Wan2.1 wan/configs/shared_config.py.
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
IMAGE = "example.png"  # ComfyUI comes with it
PICTURE_HEIGHT, TWO_PICTURES_HEIGHT = 260, 160
FAST = "Fast (off: the plain run)"
STRENGTH = "LoRA strength (0: the plain run)"
RECIPE = "auto, or as the model's authors"
FRAMES = ("First frame", "Last frame")
NOTE_HEIGHT = 1050
"""Of a note that stands alone in its column."""

T2V_A14B = [models.T2V_HIGH_NOISE, models.T2V_LOW_NOISE]
I2V_A14B = [models.I2V_HIGH_NOISE, models.I2V_LOW_NOISE]
T2V_A14B_LORAS = [models.T2V_HIGH_NOISE_LORA, models.T2V_LOW_NOISE_LORA]
I2V_A14B_LORAS = [models.I2V_HIGH_NOISE_LORA, models.I2V_LOW_NOISE_LORA]
WAN_WORKFLOWS = {
    "wan2.1_t2v_1.3B": WanFiles(VARIANTS["wan2.1_t2v_1.3B"], [models.T2V_1_3B]),
    "wan2.1_t2v_14B": WanFiles(VARIANTS["wan2.1_t2v_14B"], [models.T2V_14B]),
    "wan2.1_i2v_14B": WanFiles(VARIANTS["wan2.1_i2v_480p_14B"], [models.I2V_480P]),
    "wan2.1_i2v_14B_720p": WanFiles(VARIANTS["wan2.1_i2v_720p_14B"], [models.I2V_720P]),
    "wan2.1_flf2v_14B": WanFiles(VARIANTS["wan2.1_flf2v_14B"], [models.FLF2V]),
    "wan2.2_t2v_A14B": WanFiles(VARIANTS["wan2.2_t2v_A14B"], T2V_A14B),
    "wan2.2_i2v_A14B": WanFiles(VARIANTS["wan2.2_i2v_A14B"], I2V_A14B),
    "wan2.2_ti2v_5B": WanFiles(VARIANTS["wan2.2_ti2v_5B"], [models.TI2V_5B]),
    "wan2.1_t2v_14B_4_steps": WanFiles(VARIANTS["wan2.1_t2v_14B"], [models.T2V_14B], [models.T2V_14B_LORA]),
    "wan2.1_i2v_14B_4_steps": WanFiles(VARIANTS["wan2.1_i2v_480p_14B"], [models.I2V_480P], [models.I2V_480P_LORA]),
    "wan2.2_t2v_A14B_4_steps": WanFiles(VARIANTS["wan2.2_t2v_A14B"], T2V_A14B, T2V_A14B_LORAS),
    "wan2.2_i2v_A14B_4_steps": WanFiles(VARIANTS["wan2.2_i2v_A14B"], I2V_A14B, I2V_A14B_LORAS),
    "wan2.2_t2v_A14B_3_phases": WanFiles(VARIANTS["wan2.2_t2v_A14B"], T2V_A14B, T2V_A14B_LORAS, base_first=True),
    "wan2.2_i2v_A14B_3_phases": WanFiles(VARIANTS["wan2.2_i2v_A14B"], I2V_A14B, I2V_A14B_LORAS, base_first=True),
}


def wan_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """The workflow of a published checkpoint: what the variant is decides what stands between the prompt and the sampler."""
    files = WAN_WORKFLOWS[name]
    canvas = Canvas(name, object_info, packs)
    switch = _lora_switch(canvas) if files.loras else canvas.node("PrimitiveBoolean", title=FAST, value=True)
    loaders, loaded = load(canvas, files)
    on = {} if files.loras else {"enabled": switch["BOOLEAN"]}
    attention = [canvas.node("FastVideoAttention", model=model, **on) for model in loaded.experts]
    changed = (_loras if files.loras else _caches)(canvas, files, attention, switch)
    frames = pictures(canvas, files.variant)
    given = conditions(canvas, loaded, files, [frame["IMAGE"] for frame in frames])
    experts = dict(zip(("model", "low_noise_model"), (node["MODEL"] for node in changed), strict=False))
    if files.loras:
        sampling = _few_steps(canvas, files, experts, given, attention[0]["MODEL"])
    else:
        inputs = {**experts, **given.sampled, **settings(files.variant)}
        sampling = [canvas.node("FastVideoSampler", at_least=columns.SAMPLER_HEIGHT, **inputs)]
    first_column(canvas, files, frames)
    canvas.column(columns.MODELS_WIDTH, ("Models", loaders), ("Attention", attention))
    title = "Few-step LoRA" if files.loras else "Step cache"
    canvas.column(columns.PROMPT_WIDTH, (title, changed), ("Prompt and size", given.nodes))
    canvas.column(columns.SAMPLER_WIDTH, ("Fast or plain", [switch]), ("Sampling", sampling))
    columns.video_column(canvas, sampling[-1], loaded.vae, files.variant.fps)
    return canvas


def _lora_switch(canvas: Canvas) -> Node:
    return canvas.node("PrimitiveFloat", title=STRENGTH, value=1.0)


def _caches(canvas: Canvas, files: WanFiles, before: Sequence[Node], switch: Node) -> list[Node]:
    kind = "FastVideoDBCache" if published_table(files.variant) is None else "FastVideoMagCache"
    return [canvas.node(kind, model=node["MODEL"], enabled=switch["BOOLEAN"]) for node in before]


def _loras(canvas: Canvas, files: WanFiles, before: Sequence[Node], switch: Node) -> list[Node]:
    return [
        canvas.node(
            "LoraLoaderModelOnly", models=[lora], model=node["MODEL"], lora_name=lora.name, strength_model=switch["FLOAT"]
        )
        for node, lora in zip(before, files.loras, strict=True)
    ]


def _few_steps(canvas: Canvas, files: WanFiles, experts: dict[str, Socket], given: Conditions, base: Socket) -> list[Node]:
    """The recipe, and its sampler."""
    levels = files.recipe.levels  # shown; the recipe's own come over its socket
    recipe = canvas.node("FastVideoRecipe", recipe=RECIPE, **experts, **({"base_model": base} if files.base_first else {}))
    sampler = canvas.node(
        "FastVideoPhaseSampler", at_least=columns.PHASE_SAMPLER_HEIGHT, phases=recipe["phases"], sigmas=recipe["sigmas"],
        solver=recipe["solver"], steps=levels.steps, shift=levels.shift, **given.sampled,
    )  # fmt: skip
    return [recipe, sampler]


def load(canvas: Canvas, files: WanFiles) -> tuple[list[Node], Loaded]:
    """The loaders, and their sockets."""
    experts = [canvas.node("UNETLoader", models=[file], unet_name=file.name) for file in files.transformers]
    clip = canvas.node("CLIPLoader", models=[models.UMT5], clip_name=models.UMT5.name, type="wan")
    vae = canvas.node("VAELoader", models=[files.vae], vae_name=files.vae.name)
    nodes, clip_vision = [*experts, clip, vae], None
    if files.clip_vision is not None:
        nodes.append(canvas.node("CLIPVisionLoader", models=[files.clip_vision], clip_name=files.clip_vision.name))
        clip_vision = nodes[-1]["CLIP_VISION"]
    return nodes, Loaded([expert["MODEL"] for expert in experts], clip["CLIP"], vae["VAE"], clip_vision)


def pictures(canvas: Canvas, variant: WanVariant) -> list[Node]:
    """The nodes that load what a video of the variant starts from, and ends with."""
    if variant.image_tokens > 257:
        return [canvas.node("LoadImage", at_least=TWO_PICTURES_HEIGHT, title=title, image=IMAGE) for title in FRAMES]
    if variant.first_frame or variant.in_channels > variant.latent_channels:
        return [canvas.node("LoadImage", at_least=PICTURE_HEIGHT, image=IMAGE, bypassed=variant.first_frame)]
    return []


def conditions(canvas: Canvas, loaded: Loaded, files: WanFiles, images: Sequence[Socket]) -> Conditions:
    given = (canvas, loaded, (TURN if images and not files.variant.first_frame else FOX, NEGATIVE), files.size)
    if len(images) == 2:
        return columns.from_two_images(*given, *images)
    if not images:
        return columns.from_noise(*given)
    return (columns.from_latent_image if files.variant.first_frame else columns.from_image)(*given, *images)


def first_column(canvas: Canvas, files: WanFiles, given: Sequence[Node]) -> None:
    """The note, and the pictures that are given."""
    taken = sum(TITLE + picture.height + GAP for picture in given) + GROUP_TITLE + GROUP_BOTTOM if given else 0
    title = "First frame" if len(given) == 1 else "First and last frame"
    groups = [(title, given)] if given else []
    text = bilingual(wan_notes.about(files), wan_notes_zh.about(files))
    canvas.column(columns.NOTE_WIDTH, *groups, note=(text, NOTE_HEIGHT - taken))


def settings(variant: WanVariant) -> dict[str, Any]:
    """Inputs of the sampler."""
    settings = {"steps": variant.steps, "shift": variant.shift, "solver": "unipc", "guidance_scale": variant.guidance_scale}
    if variant.two_experts:
        settings |= {"low_noise_guidance_scale": variant.low_noise_guidance_scale, "boundary": variant.boundary}
    return settings
