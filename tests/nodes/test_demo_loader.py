"""FastVideo Load Demo Wan with its few-step LoRAs."""

from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

from fastvideo_core import RequestError
from fastvideo_core.wan.demo import FOLDER


def loaded(host: Any, model: str, **inputs: Any) -> list[Any]:
    return list(host.node_classes["FastVideoLoadDemoWan"].execute(model=model, **inputs).args)


def test_without_a_strength_there_is_no_lora(direct: Any) -> None:
    for given in ({}, {"lora_strength": 0.0}):
        assert loaded(direct, "t2v", **given)[0].patches == {}


@pytest.mark.parametrize(("model", "names"), [("t2v", ["t2v"]), ("two experts", ["high_noise", "low_noise"])])
def test_every_expert_gets_the_lora_of_its_name_whole(direct: Any, model: str, names: list[str]) -> None:
    for name, expert in zip(names, loaded(direct, model, lora_strength=1.0), strict=False):
        lora = load_file(FOLDER / f"demo_lora_{name}.safetensors")
        assert len(expert.patches) == sum(key.endswith((".lora_down.weight", ".diff_b")) for key in lora)


def test_image_to_video_has_none(direct: Any) -> None:
    with pytest.raises(RequestError, match=r"lora_strength is 1, and the demo's i2v has no few-step LoRA"):
        loaded(direct, "i2v", lora_strength=1.0)


@torch.inference_mode()
def test_previews_show_the_colours_of_the_video(direct: Any) -> None:
    from comfy.latent_formats import Wan21
    from latent_preview import Latent2RGBPreviewer

    model, _, _, vae, picture = loaded(direct, "t2v")
    wanted = torch.nn.functional.avg_pool2d(picture[0].movedim(-1, 0), 8).movedim(0, -1)
    latents = model.model.latent_format.process_in(vae.encode(picture))

    def error(latent_format: Wan21) -> float:
        previewer = Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)
        shown = numpy.array(previewer.decode_latent_to_preview(latents))
        return float((torch.from_numpy(shown) / 255 - wanted).abs().mean())

    assert error(model.model.latent_format) < min(0.1, 0.5 * error(Wan21()))
