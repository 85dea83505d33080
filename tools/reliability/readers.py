"""Nodes that read a file of a user's choice: a whole one of each kind, and the prompt that names it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.comfy_server import PACK, ComfyServer

from .damage import ANY, JSON, JSON_VALUES, PICTURES, SAFETENSORS, SUBTLE, Bytes, without
from .mutations import Prompt
from .servers import made
from .shipped import DEMO_NETWORK, diffusers, node, phases, plain

DEMO = PACK / "models" / "demo"
PACKED, TEXT_ENCODER = "wan2.1_t2v_14B_fp8_scaled.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
"""Of the templates, in 8 bits with scales."""
TABLE = "94fb1e88a6fd12ee.json"
"""The demo's ratio table, named by its weights."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """whole: the file's content; folder: of ComfyUI's models, or "input"; prompt: what reads the file of that name there;
    damages: what is done; bearable: those that a run may bear; ours: whether a node of the pack reads it; fixed: its name, if
    it is none of the user's choice."""

    whole: Callable[[ComfyServer], bytes]
    folder: str
    prompt: Callable[[str], Prompt]
    damages: Mapping[str, Bytes]
    bearable: frozenset[str] = frozenset(SUBTLE)
    ours: bool = True
    ending: str = ".safetensors"
    fixed: str = ""

    def file(self, server: ComfyServer, number: int) -> Path:
        """Each of its own name: ComfyUI does not read one again whose name it knows."""
        folder = server.input_folder() if self.folder == "input" else server.model_folder(self.folder)
        return folder / (self.fixed or f"damaged_{number}{self.ending}")


def _of(path: Path) -> Callable[[ComfyServer], bytes]:
    return lambda server: path.read_bytes()


def _model(folder: str, name: str) -> Callable[[ComfyServer], bytes]:
    return lambda server: (server.model_folder(folder) / name).read_bytes()


def _template(clip: str = TEXT_ENCODER, **inputs: Any) -> Prompt:
    """FastVideo Load Diffusers Model on a small Wan of published layout, with its text encoder."""
    prompt = diffusers(**{"model_name": PACKED, **inputs})
    prompt["demo"] = node("CLIPLoader", clip_name=clip, type="wan", device="default")
    prompt["texts"]["inputs"]["clip"] = ["demo", 0]
    return prompt


def _on_workers(name: str) -> Prompt:
    workers = node("FastVideoWorkers", count=1, device="CPU", layout="cfg x ulysses", place="this machine")
    workers["inputs"] |= {"layout.cfg": 1, "layout.ulysses": 1}
    loader = node("FastVideoLoadModelOnWorkers", workers=["workers", 0], model_name=name, weight_dtype="default")
    return {**plain(model=loader), "workers": workers}


def _trained(name: str) -> Prompt:
    return plain(model=node(
        "FastVideoSparseAttention", model=["demo", 0], enabled=True, variant="VSA", **{"variant.sparsity": 0.5}, dense_steps=0,
        dense_layers=0, kernel="gather", trained_weights=name,
    ))  # fmt: skip


def _with_table(_: str) -> Prompt:
    cache = node("FastVideoMagCache", model=["demo", 0], enabled=True, preset="auto", mode="resampled", residuals_on_cpu=False)
    return plain(model=cache, steps=12)


def _decoded(name: str) -> Prompt:
    vae = node("VAELoader", vae_name=name)
    frames = node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])
    return {**plain(), "vae": vae, "frames": frames, "shown": node("PreviewImage", images=["frames", 0])}


def _picture(name: str) -> Prompt:
    image = node("LoadImage", image=name)
    return {**plain(), "image": image, "shown": node("PreviewImage", images=["image", 0])}


def _gate(server: ComfyServer) -> bytes:
    """VSA's gates for the demo's network."""
    import torch
    from safetensors.torch import save

    chance = torch.Generator().manual_seed(0)
    shapes = {"weight": (256, 256), "bias": (256,)}
    return save({
        f"blocks.{block}.to_gate_compress.{name}": 0.01 * torch.randn(shape, generator=chance)
        for block in range(4) for name, shape in shapes.items()
    })  # fmt: skip


def _state(server: ComfyServer) -> bytes:
    """Of the plain run, interrupted by an end after two of its steps: a run of phases that ends with its first one."""
    made(server, phases(save_state="whole", stop_after_phase=1))
    return (server.model_folder("fastvideo_states") / "whole.safetensors").read_bytes()


WEIGHTS = {**ANY, **SAFETENSORS, **SUBTLE}
SCALED = {**WEIGHTS, "scales missing": without(".scale_weight"), "weights missing": without("blocks.1.")}
STATE = {**WEIGHTS, "latents missing": without("latents")}
TABLES = {**ANY, **JSON, **JSON_VALUES}
LORA = (*SUBTLE, "a tensor renamed", "a tensor missing", "a tensor of another shape", "a tensor of whole numbers")
"""A file without an alpha is one too, what is ignored is told, matrices may be those of convolutions, and of whole numbers."""
LAYERS = {**WEIGHTS, "a layer missing": without("blocks.1.")}

READERS: Mapping[str, Reader] = {
    "Load Diffusers Model": Reader(
        whole=_of(DEMO / DEMO_NETWORK), folder="diffusion_models", damages=LAYERS,
        prompt=lambda name: diffusers(model_name=name),
    ),
    "Load Diffusers Model, fp8_scaled": Reader(
        whole=_model("diffusion_models", PACKED), folder="diffusion_models", damages=SCALED,
        prompt=lambda name: _template(model_name=name),
    ),
    "Load Diffusers Model, LoRA": Reader(
        whole=_of(DEMO / "demo_lora_t2v.safetensors"), folder="loras", damages=WEIGHTS, bearable=frozenset(LORA),
        prompt=lambda name: diffusers(lora_name=name),
    ),
    "Load Model On Workers": Reader(
        whole=_of(DEMO / DEMO_NETWORK), folder="diffusion_models", damages=LAYERS, prompt=_on_workers,
    ),
    "Sparse Attention": Reader(whole=_gate, folder="diffusion_models", damages=LAYERS, prompt=_trained),
    "Phase Sampler, resumed": Reader(
        whole=_state, folder="fastvideo_states", damages=STATE,
        prompt=lambda name: phases(resume_state=name),
    ),
    "MagCache, ratio table": Reader(
        whole=_of(DEMO / TABLE), folder="fastvideo_ratios", fixed=TABLE, damages=TABLES, prompt=_with_table,
        bearable=frozenset(JSON_VALUES),
    ),
    "UNETLoader": Reader(
        whole=_of(DEMO / DEMO_NETWORK), folder="diffusion_models", damages=LAYERS, ours=False,
        prompt=lambda name: plain(model=node("UNETLoader", unet_name=name, weight_dtype="default")),
    ),
    "LoraLoaderModelOnly": Reader(
        whole=_of(DEMO / "demo_lora_t2v.safetensors"), folder="loras", damages=WEIGHTS, ours=False,
        prompt=lambda name: plain(
            model=node("LoraLoaderModelOnly", model=["demo", 0], lora_name=name, strength_model=1.0)
        ),
    ),
    "CLIPLoader": Reader(
        whole=_model("text_encoders", TEXT_ENCODER), folder="text_encoders", damages=SCALED, ours=False,
        prompt=lambda name: _template(clip=name),
    ),
    "VAELoader": Reader(
        whole=_of(DEMO / "demo_wan_vae.safetensors"), folder="vae", damages=WEIGHTS, ours=False, prompt=_decoded,
    ),
    "LoadImage": Reader(
        whole=_of(PACK / "assets" / "demo_first_frame.png"), folder="input", ending=".png",
        damages={**ANY, **PICTURES}, ours=False, prompt=_picture,
    ),
}  # fmt: skip
