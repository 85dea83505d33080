"""Single files of the small networks, as ComfyUI's and Wan's own files name their weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tiny_model import sentencepiece_model
from torch import Tensor, nn
from transformers import CLIPVisionModel


def text_file(path: Path, state: Mapping[str, Tensor], tokenizer: bool = True) -> Path:
    """ComfyUI's single file of a UMT5: transformers' keys without the tied copy, and the tokenizer as bytes."""
    tensors = {key: value.clone() for key, value in state.items() if key != "encoder.embed_tokens.weight"}
    if tokenizer:
        tensors["spiece_model"] = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    save_file(tensors, path)
    return path


def clip_file(path: Path, network: CLIPVisionModel) -> Path:
    """ComfyUI's clip_vision_h.safetensors: the prefix, the projection behind the tower and the numbers of the positions."""
    weights = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in network.state_dict().items()}
    weights["visual_projection.weight"] = torch.zeros(8, network.config.hidden_size)
    weights["vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    save_file(weights, path)
    return path


def vae_file(path: Path, vae: AutoencoderKLWan, **changes: Tensor | None) -> Path:
    """The single file of a VAE. changes: tensors to replace, or to leave out (None)."""
    tensors = {key: value for key, value in (original_vae(vae) | changes).items() if value is not None}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def original_vae(vae: AutoencoderKLWan) -> dict[str, Tensor]:
    """The weights under Wan's own names (Wan2.1 wan/modules/vae.py, Wan2.2 wan/modules/vae2_2.py), written down module by
    module, not by renaming."""
    names: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        names.update({f"{name}.{key}": value for key, value in module.state_dict().items()})

    def resnet(name: str, module: nn.Module) -> None:
        for index, part in ((0, module.norm1), (2, module.conv1), (3, module.norm2), (6, module.conv2)):
            put(f"{name}.residual.{index}", part)
        put(f"{name}.shortcut", module.conv_shortcut)

    def layer(name: str, module: nn.Module) -> None:
        (resnet if hasattr(module, "norm1") else put)(name, module)

    def part(name: str, module: nn.Module, first: str) -> None:
        put(f"{name}.conv1", module.conv_in)
        middle = module.mid_block
        for index, member in enumerate((middle.resnets[0], middle.attentions[0], middle.resnets[1])):
            layer(f"{name}.middle.{index}", member)
        for index, level in enumerate(levels(module)):
            if isinstance(level, list):
                for inner, member in enumerate(level):
                    layer(f"{name}.{first}.{index}.{first}.{inner}", member)
            else:
                layer(f"{name}.{first}.{index}", level)
        put(f"{name}.head.0", module.norm_out)
        put(f"{name}.head.2", module.conv_out)

    put("conv1", vae.quant_conv)
    put("conv2", vae.post_quant_conv)
    part("encoder", vae.encoder, "downsamples")
    part("decoder", vae.decoder, "upsamples")
    return names


def levels(part: nn.Module) -> list[nn.Module | list[nn.Module]]:
    """A row of layers for 2.1; for 2.2 a list of layers per level."""
    if hasattr(part, "down_blocks"):
        blocks, sampler = part.down_blocks, "downsampler"
    else:
        blocks, sampler = part.up_blocks, "upsampler"
    found: list[nn.Module | list[nn.Module]] = []
    for block in blocks:
        if hasattr(block, sampler):
            found.append([*block.resnets, *filter(None, [getattr(block, sampler)])])
        elif hasattr(block, "resnets"):
            found.extend([*block.resnets, *(block.upsamplers or ())])
        else:
            found.append(block)
    return found
