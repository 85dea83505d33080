"""Files of tiny Wan networks, as the different tools write them."""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tiny
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from fastvideo_core.wan.loading import original_keys
from fastvideo_core.wan.loading.keys import original_key

NETWORKS: Mapping[str, Callable[[], WanTransformer3DModel]] = {
    "t2v": tiny.t2v, "i2v_clip": tiny.i2v_clip, "flf2v": tiny.flf2v, "i2v": tiny.i2v, "ti2v": tiny.ti2v,
}  # fmt: skip
TWO_HEADS = {"config": json.dumps({"transformer": {"num_heads": 2}})}
"""The tiny networks' heads are 12 wide, so files of them must say how many there are."""


def velocity(network: WanTransformer3DModel) -> Tensor:
    """One call with fixed inputs that fit the network.

    Of a copy: weights that lie in a mapped file are not aligned as fresh ones are, and CPU kernels then round differently (5e-7).
    """
    return velocity_in_place(copy.deepcopy(network))


@torch.no_grad()
def velocity_in_place(network: WanTransformer3DModel, device: str = "cpu") -> Tensor:
    """The same, for a network that must not be copied (hooks, compiled blocks) or that computes on another device."""
    config = network.config
    dtype = network.patch_embedding.weight.dtype
    image = None
    if config.image_dim is not None:
        # One image (257 tokens), or for FLF2V two in the batch, which the network joins.
        image = tiny.normal((2 if config.pos_embed_seq_len else 1, tiny.CLIP_TOKENS, config.image_dim), 3).to(device, dtype)
    timestep = torch.full((1, 3 * 2 * 3), 700.0) if config.in_channels == 48 else torch.tensor([700.0])
    output = network(
        hidden_states=tiny.normal((1, config.in_channels, 3, 4, 6), 1).to(device, dtype),
        timestep=timestep.to(device),
        encoder_hidden_states=tiny.normal((1, 512, config.text_dim), 2).to(device, dtype),
        encoder_hidden_states_image=image,
        return_dict=False,
    )[0]
    return output.float().cpu()


def save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = TWO_HEADS) -> Path:
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def original(network: WanTransformer3DModel, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in original_keys(network.state_dict()).items()}


def block_linears(weights: Mapping[str, Tensor]) -> list[str]:
    """The weights that fp8 files quantise: the matrices in the blocks (original names)."""
    return [key for key, tensor in weights.items() if ".blocks." in f".{key}" and key.endswith(".weight") and tensor.ndim == 2]


def fp8_scaled(
    weights: Mapping[str, Tensor],
    prefix: str = "",
    dtype: torch.dtype = torch.float8_e4m3fn,
    linears: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file of ComfyUI's `scaled_fp8` kind, and the weights it stands for. linears: what it packs, those of a Wan if None."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=dtype)}
    meant = dict(weights)
    for key, tensor in weights.items():
        stored[key] = tensor
    for key in block_linears(weights) if linears is None else linears:
        scale = weights[key].abs().max() / torch.finfo(dtype).max
        stored[key] = (weights[key] / scale).to(dtype)
        stored[key.removesuffix("weight") + "scale_weight"] = scale
        stored[key.removesuffix("weight") + "scale_input"] = torch.tensor(2.0)
        meant[key] = stored[key].float() * scale
    return {prefix + key: tensor for key, tensor in stored.items()}, meant


def comfy_quant(
    weights: Mapping[str, Tensor], prefix: str = "", dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file of ComfyUI's `comfy_quant` kind, and the weights it stands for."""
    scaled, meant = fp8_scaled(weights, dtype=dtype)
    ends = {".scale_weight": ".weight_scale", ".scale_input": ".input_scale"}
    stored = {}
    for key, tensor in scaled.items():
        end = next((end for end in ends if key.endswith(end)), "")
        stored[prefix + key.removesuffix(end) + ends.get(end, "")] = tensor
    del stored[prefix + "scaled_fp8"]
    for key in block_linears(weights):
        stored[prefix + key.removesuffix("weight") + "comfy_quant"] = as_bytes({"format": str(dtype).removeprefix("torch.")})
    return stored, meant


def as_bytes(value: object) -> Tensor:
    """JSON as the uint8 tensor in which ComfyUI stores it."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def low_rank(shape: tuple[int, ...], seed: int, rank: int = 4) -> tuple[Tensor, Tensor]:
    """down (rank, in) and up (out, rank) for a weight of this shape; their product is of the weight's own size."""
    rows, columns = shape[0], math.prod(shape[1:])
    return tiny.normal((rank, columns), seed) * (0.3 / columns**0.5), tiny.normal((rows, rank), seed + 1)


def linears(network: WanTransformer3DModel) -> dict[str, tuple[int, ...]]:
    """Original name of each linear layer -> the shape of its weight."""
    layers = {name: tuple(module.weight.shape) for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    return {str(original_key(name)): shape for name, shape in layers.items()}


def pairs(network: WanTransformer3DModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Original name of each linear layer -> (down, up)."""
    return {name: low_rank(shape, 100 + 2 * i) for i, (name, shape) in enumerate(linears(network).items())}


def lightx2v_lora(network: WanTransformer3DModel) -> dict[str, Tensor]:
    """Pairs for the linear layers, differences for norms, biases and the patch embedding, under ComfyUI's prefix."""
    lora: dict[str, Tensor] = {}
    for name, (down, up) in pairs(network).items():
        lora |= {f"diffusion_model.{name}.lora_down.weight": down, f"diffusion_model.{name}.lora_up.weight": up}
    for i, (key, tensor) in enumerate(original(network).items()):
        if key.endswith(".bias"):
            lora["diffusion_model." + key.removesuffix("bias") + "diff_b"] = 0.1 * tiny.normal(tuple(tensor.shape), 900 + i)
        elif key.endswith(".weight") and tensor.ndim != 2:
            lora["diffusion_model." + key.removesuffix("weight") + "diff"] = 0.1 * tiny.normal(tuple(tensor.shape), 900 + i)
    return lora
