"""Networks with several LoRAs on them, which change everything that a LoRA can."""

import copy
from collections.abc import Mapping
from pathlib import Path

import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from lora_files import written
from torch import Tensor

from fastvideo_core.wan.loading import apply_lora, load_transformer

APPLIED = {"everything": 0.5, "pairs": 0.25, "more": -0.75}


def network_of(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """Read from a file: what diffusers keeps in float32 is so in bfloat16 networks too."""
    path = files.save(files.original(tiny.i2v_clip()), folder / "network.safetensors")
    return copy.deepcopy(load_transformer(path, dtype))


def lora_of(kind: str) -> dict[str, Tensor]:
    """Everything: pairs, norms, biases and the patch embedding's difference. More: a pair for the patch embedding, biases of
    pairs, a difference of a linear layer, modulation; several of them change one parameter."""
    plain = tiny.i2v_clip()
    if kind == "everything":
        return files.lightx2v_lora(plain)
    if kind == "pairs":
        return written(files.pairs(plain), "musubi", 6.0)
    down, up = files.low_rank((24, 36, 1, 2, 2), 7)
    lora = {"patch_embedding.lora_down.weight": down.reshape(4, 36, 1, 2, 2), "patch_embedding.lora_up.weight": up}
    lora |= {"patch_embedding.alpha": torch.tensor(3.0), "patch_embedding.diff_b": 0.1 * tiny.normal((24,), 2)}
    lora |= {"blocks.0.ffn.2.diff": 0.1 * tiny.normal((24, 48), 3), "blocks.0.diff_m": 0.1 * tiny.normal((1, 6, 24), 4)}
    down, up = files.low_rank((24, 24), 9)
    lora |= {"blocks.1.self_attn.q.lora_A.weight": down, "blocks.1.self_attn.q.lora_B.weight": up}
    lora["blocks.1.self_attn.q.lora_B.bias"] = 0.1 * tiny.normal((24,), 5)
    return {f"diffusion_model.{key}": tensor for key, tensor in lora.items()}


def saved(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    return files.save({key: tensor.to(dtype) for key, tensor in lora_of(kind).items()}, folder / f"{kind}.safetensors", None)


def with_loras(folder: Path, asked: Mapping[str, float], dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    network = network_of(folder, dtype)
    for kind, strength in asked.items():
        apply_lora(network, saved(kind, folder, torch.bfloat16 if kind == "more" else torch.float32), strength)
    return network
