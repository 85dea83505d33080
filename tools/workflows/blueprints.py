"""The subgraph blueprints that ship with the pack: parts of its workflows that fit into any other."""

from typing import Any

from tools.workflows.canvas import Canvas, ObjectInfo, PackVersions
from tools.workflows.demo import DEMO_WORKFLOWS, demo_canvas
from tools.workflows.subgraph import Blueprint, Port, blueprint_json
from tools.workflows.wan import wan_canvas

SAVED = ("CreateVideo", "SaveVideo", "FastVideoRunReport")
TEXT = {"prompt": Port("FastVideoTextEncode", "positive"), "negative_prompt": Port("FastVideoTextEncode", "negative")}
FILES = {
    "high_noise_model": Port("UNETLoader", "unet_name", 0), "low_noise_model": Port("UNETLoader", "unet_name", 1),
    "text_encoder": Port("CLIPLoader", "clip_name"), "vae": Port("VAELoader", "vae_name"),
}  # fmt: skip
LORAS = {
    "high_noise_lora": Port("LoraLoaderModelOnly", "lora_name", 0), "low_noise_lora": Port("LoraLoaderModelOnly", "lora_name", 1),
}  # fmt: skip
FAST = {"fast": Port("PrimitiveBoolean", "value")}
WORDS = ("wan", "wan 2.2", "text to video", "fast", "faster", "accelerate", "two experts")


def _size(kind: str) -> dict[str, Port]:
    return {name: Port(kind, name) for name in ("width", "height", "length")}


def _made(sampler: str) -> dict[str, Port]:
    return {"images": Port("VAEDecode", "IMAGE"), "latent": Port(sampler, "latent"), "report": Port(sampler, "report")}


BLUEPRINTS = {
    "Wan 2.2 T2V fast": Blueprint(
        workflow="wan2.2_t2v_A14B", words=[*WORDS, "t2v", "magcache"], dropped=SAVED,
        description="Wan 2.2 T2V A14B as its authors sample it, with both experts, MagCache and FastVideo Attention; fast off is "
        "the plain run. Its report says what the cache saved.",
        inputs={
            **TEXT, **_size("EmptyHunyuanLatentVideo"), "seed": Port("FastVideoSampler", "seed"),
            "steps": Port("FastVideoSampler", "steps"), **FAST, **FILES,
        },
        outputs=_made("FastVideoSampler"),
    ),
    "Wan 2.2 I2V fast": Blueprint(
        workflow="wan2.2_i2v_A14B", words=[*WORDS, "i2v", "image to video", "magcache"], dropped=(*SAVED, "LoadImage"),
        description="Wan 2.2 I2V A14B from a first frame as its authors sample it, with both experts, MagCache and FastVideo "
        "Attention; fast off is the plain run. Its report says what the cache saved.",
        inputs={
            "image": Port("WanImageToVideo", "start_image"), **TEXT, **_size("WanImageToVideo"),
            "seed": Port("FastVideoSampler", "seed"), "steps": Port("FastVideoSampler", "steps"), **FAST, **FILES,
        },
        outputs=_made("FastVideoSampler"),
    ),
    "Wan 2.2 4 steps": Blueprint(
        workflow="wan2.2_t2v_A14B_4_steps", words=[*WORDS, "t2v", "4 steps", "lightx2v", "lightning", "few steps"], dropped=SAVED,
        description="Wan 2.2 T2V A14B in 4 steps without guidance, with lightx2v's LoRAs and what they were distilled for; "
        "lora_strength 0 is the plain run.",
        inputs={
            **TEXT, **_size("EmptyHunyuanLatentVideo"), "seed": Port("FastVideoPhaseSampler", "seed"),
            "lora_strength": Port("PrimitiveFloat", "value"), **FILES, **LORAS,
        },
        outputs=_made("FastVideoPhaseSampler"),
    ),
    "Compare with the plain run": Blueprint(
        workflow="demo_compare", words=["compare", "a/b test", "psnr", "ssim", "benchmark", "quality", "faster", "wan"],
        dropped=(
            *SAVED, "FastVideoLoadDemoWan", "FastVideoMagCache", "FastVideoTextEncode", "EmptyHunyuanLatentVideo", "PreviewImage",
        ),
        description="The same prompt and seed through a MODEL as it is and through the accelerated one: seconds, speed-up, PSNR "
        "and SSIM, both videos side by side.",
        inputs={
            "plain_model": Port("FastVideoSampler", "model", 0), "fast_model": Port("FastVideoSampler", "model", 1),
            "positive": Port("FastVideoSampler", "positive"), "negative": Port("FastVideoSampler", "negative"),
            "latent": Port("FastVideoSampler", "latent"), "vae": Port("VAEDecode", "vae"),
            "plain_low_noise_model": Port("FastVideoSampler", "low_noise_model", 0),
            "fast_low_noise_model": Port("FastVideoSampler", "low_noise_model", 1),
            **{
                name: Port("FastVideoSampler", name)
                for name in ("seed", "steps", "shift", "solver", "guidance_scale", "low_noise_guidance_scale", "boundary")
            },
        },
        values={"guidance_scale": 5.0, "solver": "unipc"},
        outputs={name: Port("FastVideoCompare", name) for name in ("text", "plot", "video", "json")},
    ),
}  # fmt: skip


def blueprints(object_info: ObjectInfo, packs: PackVersions) -> dict[str, dict[str, Any]]:
    """Name -> content of the file."""
    made = {}
    for name, blueprint in BLUEPRINTS.items():
        canvas_of = demo_canvas if blueprint.workflow in DEMO_WORKFLOWS else wan_canvas
        canvas: Canvas = canvas_of(blueprint.workflow, object_info, packs)
        made[name] = blueprint_json(name, blueprint, canvas)
    return made
