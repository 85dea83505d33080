"""The demo Wan that ships with the pack: shapes that move, 64 x 64 pixels, 17 frames, seconds on any CPU."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch

from ..checks import one_of
from ..errors import LoadError
from .model import WanModel
from .variants import WanVariant

DemoKind = Literal["t2v", "i2v", "two experts"]
FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo"

_T2V = WanVariant(  # models/demo/README.md, "Sampling"; workflows/demo_*.json for the frames per second
    name="demo_t2v", title="FastVideo demo Wan, t2v", in_channels=16, latent_channels=16, dim=256, layers=4,
    shift=5.0, steps=20, guidance_scale=3.0, fps=16, width=64, height=64, frames=17,
)  # fmt: skip
DEMO_VARIANTS: Mapping[DemoKind, WanVariant] = MappingProxyType({
    "t2v": _T2V,
    "i2v": replace(_T2V, name="demo_i2v", title="FastVideo demo Wan, i2v", in_channels=36),
    "two experts": replace(
        _T2V, name="demo_two_experts", title="FastVideo demo Wan, two experts", boundary=0.875, low_noise_guidance_scale=3.0
    ),
})  # fmt: skip


def load_demo(kind: DemoKind = "t2v", device: torch.device | str = "cpu") -> WanModel:
    """The demo model in single precision; its `variant` tells how to sample it.

    Raises:
        RequestError: there is no such kind.
        LoadError: its files are not beside the engine, because the engine was installed without the pack.
    """
    one_of("The kind of demo model", kind, get_args(DemoKind))
    row = DEMO_VARIANTS[kind]
    model = WanModel.from_files(
        transformer=_file("wan_high_noise" if row.two_experts else f"wan_{kind}"),
        low_noise_transformer=_file("wan_low_noise") if row.two_experts else None,
        vae=_file("wan_vae"),
        text_encoder=_file("umt5"),
        dtype=torch.float32,
        vae_dtype=torch.float32,
        device=device,
    )
    return replace(model, name=row.name, variant=row, boundary=row.boundary, ratio_tables=(FOLDER,))


def _file(name: str) -> Path:
    path = FOLDER / f"demo_{name}.safetensors"
    if not path.is_file():
        raise LoadError(f"The demo model's {path.name} is missing from {FOLDER}: it comes with the pack's models folder.")
    return path
