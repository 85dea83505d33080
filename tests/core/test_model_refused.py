"""What a model refuses, each with the words that say how to mend it."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_model
from diffusers import WanTransformer3DModel
from tiny_model import model_of, picture, small

from fastvideo_core import (
    Conditioning,
    ConditioningError,
    LoadError,
    RequestError,
    SamplingRequest,
    TextEncoder,
    Tokenizer,
    VideoSize,
    VideoVAE,
    WanModel,
)


def condition(kind: str, *, first: bool = False, last: bool = False) -> Conditioning:
    ours = model_of(kind)
    image = picture(small(ours))
    return ours.condition("a cat", "", small(ours), image if first else None, image if last else None)


@pytest.mark.parametrize("which", ["first", "last"])
def test_an_image_for_a_text_to_video_model(which: str) -> None:
    with pytest.raises(ConditioningError, match=r"An image was given to a text-to-video model.*Leave it out"):
        condition("t2v", **{which: True})


@pytest.mark.parametrize("kind", ["i2v clip", "flf2v", "i2v two experts"])
def test_no_image_for_an_image_to_video_model(kind: str) -> None:
    with pytest.raises(ConditioningError, match=r"There is no first image.*Give first_image"):
        condition(kind)


def test_only_a_last_image() -> None:
    with pytest.raises(ConditioningError, match="There is no first image"):
        condition("i2v two experts", last=True)


def test_no_last_image_for_flf2v() -> None:
    with pytest.raises(ConditioningError, match=r"there is no last one\. Give last_image"):
        condition("flf2v", first=True)


@pytest.mark.parametrize("kind", ["i2v clip", "ti2v"])
def test_a_last_image_for_a_model_that_reads_the_first_only(kind: str) -> None:
    with pytest.raises(ConditioningError, match="A last image was given to a model that reads the first one only"):
        condition(kind, first=True, last=True)


def test_an_image_of_another_size() -> None:
    ours = model_of("i2v clip")
    with pytest.raises(ConditioningError, match=r"first image has shape \(1, 3, 64, 64\); the video needs \(1, 3, 32, 48\)"):
        ours.condition("a cat", "", small(ours), tiny_model.image(64, 64))


def test_an_image_beyond_0_to_1() -> None:
    ours = model_of("i2v clip")
    image = (picture(small(ours)) * 255).round()
    with pytest.raises(ConditioningError, match=r"has values from 0 to 255; they must lie in 0\.\.1"):
        ours.condition("a cat", "", small(ours), image)


def test_a_size_for_another_vae() -> None:
    with pytest.raises(RequestError, match=r"compresses 8 x 8 x 4; this model's does 16 x 16 x 4.*model\.video_size"):
        model_of("ti2v").condition("a cat", "", VideoSize(width=96, height=64, frames=9))


def test_a_size_off_the_grid() -> None:
    with pytest.raises(RequestError, match=r"width is 80: it must be a multiple of 32"):
        model_of("ti2v").video_size(width=80, height=64, frames=9)


def test_one_expert_asked_of_two() -> None:
    ours = model_of("t2v two experts")
    request = SamplingRequest(steps=3, shift=5.0, guidance_scale=4.0)
    with pytest.raises(RequestError):
        next(ours.generate(request, ours.condition("a cat", "", small(ours)), small(ours)))


def test_a_vae_of_another_checkpoint() -> None:
    with pytest.raises(LoadError, match="latents of 16 channels and the VAE has 48"):
        replace(model_of("t2v"), vae=VideoVAE(tiny.vae_48()))


def test_a_text_encoder_of_another_width() -> None:
    tokenizer = Tokenizer.from_sentencepiece(tiny_model.sentencepiece_model())
    with pytest.raises(LoadError, match="text rows 16 wide and the text encoder gives 24"):
        replace(model_of("t2v"), text_encoder=TextEncoder(tiny_model.umt5(width=24), tokenizer))


def test_clip_tokens_without_an_image_encoder() -> None:
    with pytest.raises(LoadError, match=r"there is no image encoder.*clip_vision_h"):
        replace(model_of("i2v clip"), image_encoder=None)


def test_experts_that_differ() -> None:
    experts = {"high_noise": tiny.t2v(), "low_noise": tiny.i2v()}
    with pytest.raises(LoadError, match=r"not of one size of network: high_noise in_channels 16.*in_channels 36"):
        replace(model_of("t2v"), transformers=experts)


@pytest.mark.parametrize("transformers", [{}, {"": tiny.t2v()}, {1: tiny.t2v()}])
def test_transformers_without_names(transformers: dict[str, WanTransformer3DModel]) -> None:
    with pytest.raises(LoadError, match="give one or more by name, such as single"):
        replace(model_of("t2v"), transformers=transformers)


def test_a_network_with_other_input_channels() -> None:
    network = tiny.transformer(in_channels=32, out_channels=16)
    with pytest.raises(LoadError, match=r"reads 32 channels, .* neither text-to-video \(16\) nor image-to-video \(36\)"):
        replace(model_of("t2v"), transformers={"single": network})


def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no model_index\.json.*from_files"):
        WanModel.load(tmp_path)


def test_a_repository_of_another_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanVACEPipeline"}')
    with pytest.raises(LoadError, match=r"for .WanVACEPipeline.; give one for WanPipeline, WanImageToVideoPipeline, AnyFlow"):
        WanModel.load(tmp_path)
