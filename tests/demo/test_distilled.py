"""The shipped LoRAs make of the demo models ones that need few steps and no guidance; both loaders read all of them.

A small version of the model card's table, with thresholds for so few clips.
"""

import functools
from dataclasses import astuple

import pytest
import torch
from safetensors.torch import load_file

from fastvideo_core import apply_lora
from fastvideo_core.quality.metrics import ssim
from tools.comfy_in_process import ComfyInProcess
from tools.demo_model.evaluation import FIRST_SEED, held_out_prompts, read
from tools.demo_model.sampling import generate
from tools.demo_model.shipped import FOLDER, distilled_models, shipped_models, shipped_transformer
from tools.demo_model.text import TEXT_DIM

NAMES = ("t2v", "high_noise", "low_noise")
PROMPTS = 8
LARGEST = 3_000_000  # bytes of the three files together


def lora(name):
    return FOLDER / f"demo_lora_{name}.safetensors"


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@functools.cache
def clips(kind, distilled, steps, guidance):
    models = distilled_models(kind) if distilled else shipped_models(kind)
    _, texts = held_out_prompts(PROMPTS)
    return generate(models, texts, list(range(FIRST_SEED, FIRST_SEED + PROMPTS)), guidance, steps=steps)


def likeness(kind, distilled, steps):
    """Mean SSIM to the teacher's clips."""
    found, teacher = ((clips(kind, *how) / 2 + 0.5).transpose(1, 2) for how in ((distilled, steps, 1.0), (False, 20, 3.0)))
    return torch.stack([ssim(one, other, 1.0).mean() for one, other in zip(found, teacher, strict=True)]).mean()


def test_the_files_are_small_enough_to_ship():
    assert sum(lora(name).stat().st_size for name in NAMES) <= LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_uses_every_tensor(name):
    report = apply_lora(shipped_transformer(name), lora(name))
    assert not report.ignored
    assert report.used == len(load_file(lora(name)))


@pytest.mark.parametrize("name", NAMES)
def test_cores_loader_uses_every_tensor_and_adds_what_the_engine_adds(comfy: ComfyInProcess, name, caplog):
    import comfy.lora
    import comfy.sd

    model = comfy.sd.load_diffusion_model(str(FOLDER / f"demo_wan_{name}.safetensors"))
    patches = comfy.lora.load_lora(load_file(lora(name)), comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=True)
    assert "not loaded" not in caplog.text
    model.add_patches(patches, 1.0)
    theirs = {
        key: comfy.lora.calculate_weight(changes, weight.float().clone(), key)
        for key, ((weight, _), *changes) in model.get_key_patches("diffusion_model.").items()
    }
    transformer = shipped_transformer(name)
    apply_lora(transformer, lora(name))
    q = transformer.blocks[1].attn1.to_q
    assert relative_error(q.weight, theirs["diffusion_model.blocks.1.self_attn.q.weight"]) < 1e-6
    assert relative_error(q.bias, theirs["diffusion_model.blocks.1.self_attn.q.bias"]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_strength_0_is_the_model_without_it(name):
    generator = torch.Generator().manual_seed(0)
    noise, rows = torch.randn(1, 16, 5, 8, 8, generator=generator), torch.randn(1, 5, TEXT_DIM, generator=generator)
    transformer, timestep = shipped_transformer(name), torch.tensor([900.0])
    before = transformer(noise, timestep, rows, return_dict=False)[0]
    apply_lora(transformer, lora(name), 0.0)
    assert torch.equal(transformer(noise, timestep, rows, return_dict=False)[0], before)


@pytest.mark.parametrize(("kind", "steps"), [("t2v", 2), ("two experts", 4)])
def test_few_steps_show_what_the_prompt_says_and_are_nearer_to_the_teacher_than_without_it(kind, steps):
    scenes, _ = held_out_prompts(PROMPTS)
    verdicts = [read(clip) for clip in clips(kind, True, steps, 1.0)]
    right = [astuple(verdict) == scene.combination for scene, verdict in zip(scenes, verdicts, strict=True)]
    assert sum(right) >= PROMPTS - 1
    assert likeness(kind, True, steps) > likeness(kind, False, steps)
