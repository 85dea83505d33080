"""CLIP's vision tower (ViT-H), which gives Wan 2.1 I2V and FLF2V their image tokens."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ConditioningError
from ..json_object import made_of, read_json_file
from .loading.checkpoint import Checkpoint, open_checkpoint
from .placement import placed
from .weights import component, not_a, read_config, read_state, transformers_network

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

VIT_H_HEAD_DIM = 80
"""Width of an attention head of ViT-H, the tower that Wan 2.1 was trained with: 1280 in 16 heads (open_clip, ViT-H-14.json).
The shapes of the weights say everything else about the tower."""


@dataclass(frozen=True)
class ImageEncoder:
    """A vision tower over `network`, which is on `device` only while it works."""

    network: "CLIPVisionModel"
    processor: "CLIPImageProcessor"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    offload_device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @classmethod
    def load(
        cls,
        path: Path | str,
        dtype: torch.dtype | None = None,
        *,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> "ImageEncoder":
        """From a diffusers repository (`image_encoder` and `image_processor`), or from ComfyUI's clip_vision_h.safetensors.

        Args:
            dtype: what the network computes in; as stored when None.

        Raises:
            LoadError: no such file, or it holds something else.
        """
        from transformers import CLIPVisionModel

        source = component(path, "image_encoder")
        checkpoint = open_checkpoint(source)
        config = config_of(checkpoint)
        ours = {key: tensor for key, tensor in checkpoint.tensors.items() if _is_ours(key)}
        state, dtype = read_state(checkpoint, ours, dtype)
        network = transformers_network(CLIPVisionModel, config, state, dtype, source)
        network.to(torch.device(offload_device))
        return cls(network, processor_of(source, config.image_size), torch.device(device), torch.device(offload_device))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The output of the last layer but one (Wan2.1, wan/modules/clip.py), as diffusers' I2V pipeline takes it.

        The images are rounded to 8 bits, as they come from files, then resized and cropped to 224 x 224 by CLIP's rule.

        Args:
            images: (B, 3, H, W) in 0..1.

        Returns: (B, 257, 1280) float32.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConditioningError(f"Images have shape {tuple(images.shape)}; expected (batch, 3, height, width) in 0..1.")
        pixels = (images.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        inputs = self.processor(images=list(pixels), return_tensors="pt")["pixel_values"]
        with placed(self.network, self.device, self.offload_device):
            output = self.network(inputs.to(self.device, self.network.dtype), output_hidden_states=True)
        hidden: Tensor = output.hidden_states[-2]
        return hidden.to(images.device, torch.float32)


def _is_ours(key: str) -> bool:
    """Files may hold the projection that follows the tower, and the numbers of the positions."""
    return key != "visual_projection.weight" and not key.endswith("position_ids")


def config_of(checkpoint: Checkpoint) -> "CLIPVisionConfig":
    """The tower's configuration: a folder states it, of a single file under transformers' names the shapes tell it."""
    from transformers import CLIPVisionConfig

    if checkpoint.path.is_dir():
        told = read_config(checkpoint.path, "CLIPVisionModel")
        return made_of(f"{checkpoint.path} is no CLIPVisionModel", lambda: CLIPVisionConfig.from_dict(told))
    shapes = {key.removeprefix("vision_model."): tensor.shape for key, tensor in checkpoint.tensors.items()}
    layers = {key.split(".")[2] for key in shapes if key.startswith("encoder.layers.")}
    width = shapes.get("embeddings.class_embedding", (0,))[0]
    if not width or width % VIT_H_HEAD_DIM or "encoder.layers.0.mlp.fc1.weight" not in shapes:
        raise not_a(
            "CLIP ViT-H vision tower under transformers' names (vision_model.embeddings.class_embedding, ...)",
            checkpoint,
            "Wan 2.1 I2V reads the tokens of clip_vision_h.safetensors and of no other tower.",
        )
    patch = shapes["embeddings.patch_embedding.weight"][-1]
    patches = shapes["embeddings.position_embedding.weight"][0] - 1
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=len(layers),
        num_attention_heads=width // VIT_H_HEAD_DIM,
        patch_size=patch,
        image_size=patch * math.isqrt(patches),
        hidden_act="gelu",
    )


def processor_of(source: Path, image_size: int) -> "CLIPImageProcessor":
    """The repository's own preprocessing, or CLIP's for `image_size`, which is the same for Wan's repositories."""
    from transformers import CLIPImageProcessor

    settings = source.parent / "image_processor" / "preprocessor_config.json"
    if source.is_dir() and settings.is_file():
        told = read_json_file(settings)
        return made_of(f"{settings} is no CLIPImageProcessor", lambda: CLIPImageProcessor.from_dict(told))
    crop = {"height": image_size, "width": image_size}
    return CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=crop)
