"""The demo Wan that ships with the pack, as core objects: core's own networks, text encoder and VAE over small weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.sd
import comfy.text_encoders.wan
import comfy.utils
import numpy
import torch
from PIL import Image
from safetensors import safe_open

from fastvideo_core import LoadError, RequestError

PACK = Path(__file__).resolve().parents[2]
FOLDER, ASSETS = PACK / "models" / "demo", PACK / "assets"
FIRST_FRAME, LATENT_RGB = ASSETS / "demo_first_frame.png", ASSETS / "demo_latent_rgb.json"
TEXT_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")  # the rest is as in UMT5-XXL
DISTILLED = ("t2v", "high_noise", "low_noise")
"""Those that have a LoRA for few steps."""
EXPERTS = {"t2v": ("t2v",), "i2v": ("i2v",), "two experts": ("high_noise", "low_noise")}


def demo_file(name: str) -> Path:
    """A file of the demo model."""
    path = FOLDER / f"demo_{name}.safetensors"
    if not path.is_file():
        raise LoadError(f"The demo model's {path.name} is missing from {FOLDER}: install the pack again, with its models folder.")
    return path


def load_expert(name: str, lora_strength: float) -> Any:
    """A transformer, with its distillation LoRA.

    Raises:
        RequestError: there is no LoRA of it.
    """
    if lora_strength and name not in DISTILLED:
        raise RequestError(
            f"lora_strength is {lora_strength:g}, and the demo's {name} has no few-step LoRA: set it to 0, or model to t2v or "
            "two experts."
        )
    model = comfy.sd.load_diffusion_model(str(demo_file(f"wan_{name}")))
    model.model.latent_format = DemoLatents()
    if not lora_strength:
        return model
    lora = comfy.utils.load_torch_file(str(demo_file(f"lora_{name}")), safe_load=True)
    return comfy.sd.load_lora_for_models(model, None, lora, lora_strength, 0.0)[0]


class DemoLatents(comfy.latent_formats.Wan21):
    """Wan 2.1's latents, which previews show in the colours that the demo's VAE gives them."""

    def __init__(self) -> None:
        if not LATENT_RGB.is_file():
            raise LoadError(f"The demo's {LATENT_RGB} is missing: install the pack again, with its assets folder.")
        table = json.loads(LATENT_RGB.read_text(encoding="utf-8"))
        super().__init__()
        self.latent_rgb_factors, self.latent_rgb_factors_bias = table["factors"], table["bias"]


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
