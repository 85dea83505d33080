"""The demo Wan that ships with the pack: shapes that move, 64 x 64 pixels, 17 frames, seconds on any CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from ..errors import LoadError, RequestError
from .model import WanModel

DemoKind = Literal["t2v", "i2v", "two experts"]
FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo"
BOUNDARY = 0.875
"""Where its two experts were trained to change (models/demo/README.md)."""


def load_demo(kind: DemoKind = "t2v", device: torch.device | str = "cpu") -> WanModel:
    """The demo model in single precision. Sample it with shift 5, guidance scale 3.

    Raises:
        RequestError: there is no such kind.
        LoadError: its files are not beside the engine, because the engine was installed without the pack.
    """
    if kind not in get_args(DemoKind):
        raise RequestError(f"There is no demo model {kind!r}: use one of {', '.join(get_args(DemoKind))}.")
    two_experts = kind == "two experts"
    model = WanModel.from_files(
        transformer=_file("wan_high_noise" if two_experts else f"wan_{kind}"),
        low_noise_transformer=_file("wan_low_noise") if two_experts else None,
        vae=_file("wan_vae"),
        text_encoder=_file("umt5"),
        dtype=torch.float32,
        vae_dtype=torch.float32,
        device=device,
    )
    return replace(model, boundary=BOUNDARY if two_experts else None)


def _file(name: str) -> Path:
    path = FOLDER / f"demo_{name}.safetensors"
    if not path.is_file():
        raise LoadError(f"The demo model's {path.name} is missing from {FOLDER}: it comes with the pack's models folder.")
    return path
