"""Tiny real Wan networks and VAEs with random weights of a fixed seed: each variant's architecture, milliseconds per call.

head_dim 12 is a small one that rotary embedding splits evenly into time, height and width; all is float32 on the CPU.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from fastvideo_core import (
    Conditioning,
    GivenFrame,
    Guidance,
    SamplingRequest,
    Step,
    generate,
    image_condition,
    seeded_noise,
)
from fastvideo_core.wan import WanExperts

TEXT_DIM = 16
IMAGE_DIM = 20
CLIP_TOKENS = 257
SHAPE = (1, 16, 3, 4, 6)
"""Latents of a 9-frame video of 32 x 48 pixels."""
SHAPE_48 = (1, 48, 3, 4, 6)
"""The same for the VAE of Wan2.2 TI2V-5B: 64 x 96 pixels."""


def seeded(seed: int, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """make(...) with torch's global generator at `seed`, which is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **kwargs)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def transformer(seed: int = 0, **config: Any) -> WanTransformer3DModel:
    sizes = {
        "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2, "text_dim": TEXT_DIM,
        "freq_dim": 32, "rope_max_seq_len": 64,
    }  # fmt: skip
    network = seeded(seed, WanTransformer3DModel, **(sizes | config)).eval().requires_grad_(False)
    for block in network.blocks:
        block.attn2.to_out[0].weight.mul_(10)  # as made, text moves the velocity by less than 1 %: too little for tests
    return network


def t2v(seed: int = 0) -> WanTransformer3DModel:
    """Wan 2.1 T2V and each expert of 2.2 T2V-A14B."""
    return transformer(seed, in_channels=16, out_channels=16)


def i2v_clip(seed: int = 0) -> WanTransformer3DModel:
    """Wan 2.1 I2V: 36 channels and CLIP image tokens with their own keys and values."""
    return transformer(seed, in_channels=36, out_channels=16, image_dim=IMAGE_DIM, added_kv_proj_dim=24)


def flf2v(seed: int = 0) -> WanTransformer3DModel:
    """Wan 2.1 FLF2V: two images, whose 514 tokens have a position embedding."""
    network = transformer(
        seed, in_channels=36, out_channels=16, image_dim=IMAGE_DIM, added_kv_proj_dim=24, pos_embed_seq_len=2 * CLIP_TOKENS
    )
    embedder = network.condition_embedder.image_embedder
    embedder.pos_embed.copy_(normal(tuple(embedder.pos_embed.shape), seed))  # zeros as made, random as trained
    return network


def i2v(seed: int = 0) -> WanTransformer3DModel:
    """Each expert of Wan 2.2 I2V-A14B: 36 channels, no image tokens."""
    return transformer(seed, in_channels=36, out_channels=16)


def ti2v(seed: int = 0) -> WanTransformer3DModel:
    """Wan 2.2 TI2V-5B: 48 latent channels."""
    return transformer(seed, in_channels=48, out_channels=48)


def vae(seed: int = 0) -> AutoencoderKLWan:
    """The VAE of Wan 2.1 and 2.2 A14B: 8 x 8 x 4, 16 channels."""
    return seeded(seed, AutoencoderKLWan, base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def vae_48(seed: int = 0) -> AutoencoderKLWan:
    """The VAE of Wan 2.2 TI2V-5B: 16 x 16 x 4, 48 channels."""
    config = {
        "base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_dim": 48, "is_residual": True, "in_channels": 12,
        "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.1] * 48,
        "latents_std": [0.8] * 48,
    }  # fmt: skip
    return seeded(seed, AutoencoderKLWan, **config).eval()


def texts(batch: int = 1) -> dict[str, Tensor]:
    """The two text embeddings, zero beyond the prompt's real tokens, as Wan's encoder gives them."""
    rows = {"positive": normal((batch, 512, TEXT_DIM), 101), "negative": normal((batch, 512, TEXT_DIM), 102)}
    rows["positive"][:, 120:] = 0
    rows["negative"][:, 300:] = 0
    return rows


def conditioning(*, image: bool = False, clip_images: int = 0, first_frame: bool = False) -> Conditioning:
    """Random conditions of the right shapes for `SHAPE` (first_frame: `SHAPE_48`)."""
    known = torch.zeros(9, dtype=torch.bool)
    known[0] = True
    return Conditioning(
        **texts(),
        image=image_condition(normal(SHAPE, 103), known) if image else None,
        image_tokens=normal((1, clip_images * CLIP_TOKENS, IMAGE_DIM), 104) if clip_images else None,
        first_frame=GivenFrame(normal((1, 48, 1, 4, 6), 105)) if first_frame else None,
    )


def relative_error(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference||, in float64."""
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Variant:
    """A network's factory and what it is told."""

    network: Callable[[int], WanTransformer3DModel]
    conditioning: Conditioning
    shape: tuple[int, ...] = SHAPE


def variants() -> dict[str, Variant]:
    """Every way in which Wan's networks are conditioned."""
    return {
        "T2V": Variant(t2v, conditioning()),
        "I2V with CLIP": Variant(i2v_clip, conditioning(image=True, clip_images=1)),
        "FLF2V": Variant(flf2v, conditioning(image=True, clip_images=2)),
        "I2V 2.2": Variant(i2v, conditioning(image=True)),
        "TI2V": Variant(ti2v, conditioning(first_frame=True), SHAPE_48),
        "TI2V without image": Variant(ti2v, conditioning(), SHAPE_48),
    }


def experts(
    networks: Mapping[str, WanTransformer3DModel], condition: Conditioning, shape: tuple[int, ...] = SHAPE
) -> WanExperts:
    return WanExperts(networks, condition, shape, device=torch.device("cpu"), offload_device=torch.device("cpu"))


def run(
    request: SamplingRequest,
    networks: Mapping[str, WanTransformer3DModel],
    condition: Conditioning,
    shape: tuple[int, ...] = SHAPE,
) -> tuple[list[Step], Guidance]:
    """A whole generation on the CPU: its steps, and the guidance with the account of calls."""
    guidance = Guidance(request.plan(), request.guidance)
    steps = generate(request, experts(networks, condition, shape), condition, seeded_noise(shape, request.seed), guidance)
    return list(steps), guidance


@contextmanager
def recorded_batches(network: WanTransformer3DModel) -> Iterator[list[int]]:
    """The batch size of every call of the network, counted inside it."""
    batches: list[int] = []
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["hidden_states"].shape[0]), with_kwargs=True
    )
    try:
        yield batches
    finally:
        handle.remove()
