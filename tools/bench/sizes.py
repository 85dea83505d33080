"""How large a network and a video are measured, and the file that every contender loads its weights from."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file
from torch import nn

from fastvideo_core.wan.loading import original_keys

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A Wan 2.1 T2V network (heads of 128, 16 channels) and the latents (1, 16, frames, height, width) that it denoises."""

    title: str
    heads: int
    ffn_dim: int
    layers: int
    text_dim: int
    latents: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, 16, *self.latents

    @property
    def tokens(self) -> int:
        frames, height, width = self.latents
        return frames * (height // 2) * (width // 2)

    def __str__(self) -> str:
        width, height = self.latents[2] * 8, self.latents[1] * 8
        return (
            f"{self.title}: {self.layers} blocks of width {128 * self.heads}, {width} x {height} x "
            f"{4 * (self.latents[0] - 1) + 1} frames ({self.tokens} tokens), {str(self.dtype).removeprefix('torch.')}"
        )


def _14b(latents: tuple[int, int, int]) -> Size:
    """Wan2.1-T2V-14B's config.json."""
    return Size(
        title="Wan 2.1 T2V 14B", heads=40, ffn_dim=13824, layers=40, text_dim=4096, latents=latents, dtype=torch.bfloat16
    )


SIZES = MappingProxyType(
    {
        "small": Size(
            title="small", heads=2, ffn_dim=1024, layers=4, text_dim=256, latents=(3, 16, 20), dtype=torch.float32
        ),
        "demo": Size(  # the demo model's
            title="demo", heads=2, ffn_dim=512, layers=4, text_dim=128, latents=(5, 8, 8), dtype=torch.float32
        ),
        "medium": Size(
            title="medium", heads=4, ffn_dim=2048, layers=4, text_dim=256, latents=(5, 32, 32), dtype=torch.float32
        ),
        "1.3B-480p": Size(  # Wan2.1-T2V-1.3B's config.json
            title="Wan 2.1 T2V 1.3B", heads=12, ffn_dim=8960, layers=30, text_dim=4096, latents=(21, 60, 104),
            dtype=torch.bfloat16,
        ),
        "14B-480p": _14b((21, 60, 104)),
        "14B-720p": _14b((21, 90, 160)),
    }
)  # fmt: skip


def write_weights(size: Size, folder: Path, device: torch.device = CPU) -> Path:
    """Random weights of a fixed seed as one file with original Wan keys, which the engine and ComfyUI both load. device: where
    they are drawn; 14 billion take minutes on a CPU."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    with device:
        network = WanTransformer3DModel(
            num_attention_heads=size.heads,
            attention_head_dim=128,
            ffn_dim=size.ffn_dim,
            num_layers=size.layers,
            text_dim=size.text_dim,
        )
    nn.Module.to(network, size.dtype)  # tensor by tensor in place: two copies of 14 billion need more than 80 GB
    weights = {key: value.contiguous() for key, value in original_keys(network.state_dict()).items()}
    file = folder / f"{size.title.replace(' ', '_')}.safetensors"
    told = {"text_dim": size.text_dim, "num_heads": size.heads}  # what ComfyUI does not read from the weights
    save_file(weights, file, metadata={"config": json.dumps({"transformer": told})})
    return file
