"""The shipped API prompts, small, and prompts with the nodes that none of them has; all keep their latents as files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.comfy_server import PACK, ComfyServer

Prompt = dict[str, Any]

NAMES = sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))
DEMOS = [name for name in NAMES if name.startswith("demo_")]
SMALL = {"width": 32, "height": 32, "length": 5}
MANY_STEPS, FEWER_STEPS = 20, 8
TUNED = "FastVideoAutoTune"
"""Which finds no setting in few steps."""
LOADERS = {
    "UNETLoader": ("diffusion_models", "unet_name"), "FastVideoLoadModelOnWorkers": ("diffusion_models", "model_name"),
    "LoraLoaderModelOnly": ("loras", "lora_name"), "CLIPLoader": ("text_encoders", "clip_name"),
    "CLIPVisionLoader": ("clip_vision", "clip_name"), "VAELoader": ("vae", "vae_name"),
}  # fmt: skip
"""Which folder's file a loader names, and in which widget."""
DEMO_NETWORK = "demo_wan_t2v.safetensors"


def node(kind: str, **inputs: Any) -> Prompt:
    return {"class_type": kind, "inputs": inputs}


def shipped(name: str) -> Prompt:
    """One of `NAMES`, small, with one worker on the CPU where there are any."""
    prompt: Prompt = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for entry in prompt.values():
        inputs = entry["inputs"]
        inputs |= {key: value for key, value in SMALL.items() if isinstance(inputs.get(key), int)}
        if entry["class_type"] != TUNED and isinstance(inputs.get("steps"), int) and inputs["steps"] >= MANY_STEPS:
            inputs["steps"] = FEWER_STEPS
        if entry["class_type"] == "FastVideoWorkers":
            inputs |= {"device": "CPU", "count": 1}
    return with_latents(prompt)


def with_latents(prompt: Prompt) -> Prompt:
    """Whatever is decoded or made by a batch is kept as a file before."""
    decoded = {name: entry["inputs"]["samples"] for name, entry in prompt.items() if entry["class_type"] == "VAEDecode"}
    batches = {name: [name, 0] for name, entry in prompt.items() if entry["class_type"] == "FastVideoBatch"}
    saved = {
        f"latents {name}": node("SaveLatent", samples=link, filename_prefix=f"latents/{name}")
        for name, link in (decoded | batches).items()
    }
    return {**prompt, **saved}


def plain(seed: int = 0, model: Prompt | None = None, **inputs: Any) -> Prompt:
    """FastVideo Sampler, node "sampler", on the demo's network, or on another MODEL of node "model"; without a video."""
    settings = shipped("demo_t2v")["4"]["inputs"] | {"steps": 4, "seed": seed}
    links = {"model": ["model", 0] if model else ["demo", 0], "latent": ["empty", 0]}
    texts = {"positive": ["texts", 0], "negative": ["texts", 1]}
    return {
        "demo": node("FastVideoLoadDemoWan", model="t2v", lora_strength=0.0),
        **({"model": model} if model else {}),
        "texts": node("FastVideoTextEncode", positive="a red circle moving right", negative="", clip=["demo", 2]),
        "empty": node("EmptyHunyuanLatentVideo", **SMALL, batch_size=1),
        "sampler": node("FastVideoSampler", **settings | links | texts | inputs),
        "report": node("FastVideoRunReport", report=["sampler", 1]),
        "saved": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/plain"),
    }


def phases(**state: Any) -> Prompt:
    """FastVideo Phase Sampler, node "sampler", with two phases of the demo's network."""
    prompt = plain()
    given = prompt["sampler"]["inputs"]
    names = ("seed", "steps", "shift", "solver", "guidance_mode", "gate", "guidance_rescale", "positive", "negative", "latent")
    kept = {"stop_after_phase": 0, "save_state": "", "resume_state": "none", **state}
    return {
        **prompt,
        "first": node("FastVideoPhase", model=["demo", 0], until=0.9, guidance_scale=3.0),
        "second": node("FastVideoPhase", model=["demo", 0], until=0.0, guidance_scale=1.0, phases=["first", 0]),
        "sampler": node("FastVideoPhaseSampler", phases=["second", 0], **{name: given[name] for name in names}, **kept),
    }


def guided() -> Prompt:
    """FastVideo Guider in core's SamplerCustomAdvanced."""
    prompt = plain()
    given = prompt.pop("sampler")["inputs"]
    del prompt["report"]
    names = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale")
    links = {name: given[name] for name in ("model", "positive", "negative")}
    return {
        **prompt,
        "guider": node("FastVideoGuider", **{name: given[name] for name in names}, **links),
        "noise": node("RandomNoise", noise_seed=3),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["demo", 0], scheduler="simple", steps=4, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0], sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
    }  # fmt: skip


def sparse() -> Prompt:
    variant = {"variant": "VSA", "variant.sparsity": 0.5}
    return plain(model=node(
        "FastVideoSparseAttention", model=["demo", 0], enabled=True, **variant, dense_steps=1, dense_layers=1, kernel="gather",
        trained_weights="none",
    ))  # fmt: skip


def diffusers(**inputs: Any) -> Prompt:
    """The demo's network by the pack's own engine; its file must be there."""
    named = {"model_name": DEMO_NETWORK, "dtype": "as stored", "lora_name": "none", "lora_strength": 1.0}
    return plain(model=node("FastVideoLoadDiffusersModel", **named | inputs))


def compiled() -> Prompt:
    """Switched off, for compiling takes a minute."""
    return plain(model=node("FastVideoCompile", model=["demo", 0], enabled=False))


def own() -> Mapping[str, Prompt]:
    """The nodes that no shipped prompt has."""
    return {"guider": guided(), "sparse attention": sparse(), "diffusers": diffusers(), "compile": compiled()}


def place_inputs(server: ComfyServer) -> None:
    """What the demos and `own` read."""
    shutil.copyfile(PACK / "assets" / "demo_first_frame.png", server.input_folder() / "example.png")
    shutil.copyfile(PACK / "models" / "demo" / DEMO_NETWORK, server.model_folder("diffusion_models") / DEMO_NETWORK)


def place_templates(server: ComfyServer) -> None:
    """Small files under the names that the shipped prompts' loaders give, and what makes core's networks as small."""
    from template_files import write  # the tests' own

    for name in NAMES:
        for entry in shipped(name).values():
            if entry["class_type"] in LOADERS:
                folder, widget = LOADERS[entry["class_type"]]
                file = server.model_folder(folder) / entry["inputs"][widget]
                if not file.is_file():
                    write(file)
    (server.base / "custom_nodes").mkdir(exist_ok=True)
    shutil.copyfile(PACK / "tests" / "smaller_core.py", server.base / "custom_nodes" / "smaller_core.py")


def latents(server: ComfyServer, identity: str) -> list[Path]:
    """The files that a prompt of here kept."""
    return sorted(file for file in server.files(identity) if file.suffix == ".latent")
