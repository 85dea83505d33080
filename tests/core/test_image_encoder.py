"""CLIP image tokens against diffusers' image-to-video pipeline."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_files
import tiny_model
import torch
from PIL import Image
from tiny import relative_error
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModel

from fastvideo_core import ConditioningError, ImageEncoder, LoadError


def reference(network: CLIPVisionModel, images: Tensor) -> Tensor:
    """The pipeline's own tokens, of PIL images."""
    pipe = tiny_model.pipeline(tiny.i2v_clip(), tiny.vae(), image_encoder=network)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        return pipe.encode_image([Image.fromarray(np.ascontiguousarray(image)) for image in pixels])


@pytest.mark.parametrize("size", [(96, 64), (224, 224), (320, 480)])
def test_tokens_are_those_of_diffusers_pipeline(size: tuple[int, int]) -> None:
    images = torch.cat([tiny_model.image(*size), tiny_model.image(*size, seed=8)])
    tokens = ImageEncoder(tiny_model.clip(), CLIPImageProcessor()).encode(images)
    assert tokens.shape == (2, 257, tiny.IMAGE_DIM) and tokens.dtype == torch.float32
    assert relative_error(tokens, reference(tiny_model.clip(), images)) <= 1e-6


def test_a_diffusers_repository_gives_the_same_tokens_and_its_own_preprocessing(tmp_path: Path) -> None:
    network, image = tiny_model.clip(), tiny_model.image(96, 64)
    network.save_pretrained(tmp_path / "image_encoder")
    assert relative_error(ImageEncoder.load(tmp_path).encode(image), reference(network, image)) <= 1e-6
    CLIPImageProcessor(image_mean=[0, 0, 0], image_std=[1, 1, 1]).save_pretrained(tmp_path / "image_processor")
    assert list(ImageEncoder.load(tmp_path).processor.image_std) == [1, 1, 1]


def test_a_single_file_gives_the_same_tokens(tmp_path: Path) -> None:
    network, image = tiny_model.clip(width=160), tiny_model.image(96, 64)  # two heads of 80, as ViT-H has them
    encoder = ImageEncoder.load(tiny_files.clip_file(tmp_path / "clip.safetensors", network))
    assert relative_error(encoder.encode(image), reference(network, image)) <= 1e-6
    assert ImageEncoder.load(tmp_path / "clip.safetensors", torch.bfloat16).network.dtype == torch.bfloat16


def test_a_tower_that_is_not_vit_h_is_refused(tmp_path: Path) -> None:
    path = tiny_files.clip_file(tmp_path / "clip.safetensors", tiny_model.clip(width=64))
    with pytest.raises(LoadError, match="no CLIP ViT-H vision tower"):
        ImageEncoder.load(path)


def test_a_tower_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    network = tiny_model.clip(width=160)
    del network.encoder.layers[1].mlp.fc2
    with pytest.raises(LoadError, match=r"lacks .*encoder\.layers\.1\.mlp\.fc2\.bias"):
        ImageEncoder.load(tiny_files.clip_file(tmp_path / "clip.safetensors", network))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ConditioningError, match=r"expected \(batch, 3, height, width\)"):
        ImageEncoder(tiny_model.clip(), CLIPImageProcessor()).encode(torch.zeros(1, 64, 64, 3))
