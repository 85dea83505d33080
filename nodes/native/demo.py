"""The demo Wan that ships with the pack, as core objects: core's own networks, text encoder and VAE over small weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.text_encoders.wan
import comfy.utils
import numpy
import torch
from PIL import Image
from safetensors import safe_open

from fastvideo_core import LoadError

PACK = Path(__file__).resolve().parents[2]
FOLDER, FIRST_FRAME = PACK / "models" / "demo", PACK / "assets" / "demo_first_frame.png"
TEXT_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")  # the rest is as in UMT5-XXL
EXPERTS = {"t2v": ("t2v",), "i2v": ("i2v",), "two experts": ("high_noise", "low_noise")}


def demo_file(name: str) -> Path:
    """A file of the demo model."""
    path = FOLDER / f"demo_{name}.safetensors"
    if not path.is_file():
        raise LoadError(f"The demo model's {path.name} is missing from {FOLDER}: install the pack again, with its models folder.")
    return path


def load_clip(path: Path) -> Any:
    """The small UMT5 as core's Wan CLIP: core's class for it, told of the sizes in the file's metadata."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    sizes = {name: config[name] for name in TEXT_SIZES}
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    spiece = weights.pop("spiece_model")
    target = SimpleNamespace(params={}, clip=comfy.text_encoders.wan.te(), tokenizer=comfy.text_encoders.wan.WanT5Tokenizer)
    return comfy.sd.CLIP(
        target,
        tokenizer_data={"spiece_model": spiece},
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options={"umt5xxl_model_config": sizes, "dtype": torch.float32},
    )


def load_vae(path: Path) -> Any:
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path), safe_load=True))
    vae.throw_exception_if_invalid()
    return vae


def load_first_frame() -> torch.Tensor:
    """A picture that i2v can start from, (1, 64, 64, 3) in 0..1: what core's LoadImage makes of the file."""
    if not FIRST_FRAME.is_file():
        raise LoadError(f"The demo's first frame is missing, {FIRST_FRAME}: install the pack again, with its assets folder.")
    with Image.open(FIRST_FRAME) as image:
        return torch.from_numpy(numpy.asarray(image.convert("RGB"), dtype=numpy.float32) / 255)[None]
