"""Distillation learns, keeps what an interrupted run made, and its file does to the base what training did."""

import copy
import dataclasses
import random

import pytest
import torch

from fastvideo_core import apply_lora
from tools.demo_model import trajectories as made
from tools.demo_model.distillation import Course, landing_loss, pointing_loss, walked, walking_loss
from tools.demo_model.engine import demo_engine
from tools.demo_model.loop import train_stage
from tools.demo_model.low_rank import add_low_rank, low_rank_tensors, save_low_rank
from tools.demo_model.sampling import generate
from tools.demo_model.shipped import shipped_models, shipped_transformer
from tools.demo_model.text import TEXT_DIM
from tools.demo_model.train_distilled import LANDING, POINTING, WALKING
from tools.demo_model.vae import decode


def few():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, made.GRID + 1, 16, 5, 8, 8, generator=generator)
    combinations = [("circle", "red", "gray", "growing"), ("square", "blue", "white", "still")]
    return made.Trajectories(["a red circle growing", "a blue square still on white"], combinations, latents)


def velocity(transformer):
    generator = torch.Generator().manual_seed(1)
    noise, rows = torch.randn(1, 16, 5, 8, 8, generator=generator), torch.randn(1, 5, TEXT_DIM, generator=generator)
    with torch.no_grad():
        return transformer(noise, torch.tensor([800.0]), rows, return_dict=False)[0]


def changed(name):
    """A transformer with a LoRA that does something."""
    transformer = shipped_transformer(name)
    add_low_rank(transformer, 4, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return transformer


@pytest.mark.parametrize(("stage", "loss"), [(POINTING, pointing_loss), (WALKING, walking_loss), (LANDING, landing_loss)])
def test_a_few_steps_lower_the_loss_and_leave_the_base_alone(stage, loss, tmp_path):
    models, base = shipped_models("t2v"), shipped_transformer("t2v")
    add_low_rank(models.transformer, 4, seed=0)
    assert torch.equal(velocity(models.transformer), velocity(base))
    course, stage = Course(models, few(), 0), dataclasses.replace(stage, steps=3, batch=2, warmup=1)
    before = loss(course, stage, 0).item()
    train_stage(stage, models.transformer, lambda step: loss(course, stage, 0), tmp_path)
    assert loss(course, stage, 0).item() < before
    weight = models.transformer.blocks[0].attn1.to_q.parametrizations.weight.original
    assert torch.equal(weight, base.blocks[0].attn1.to_q.weight)


def test_the_file_does_to_the_base_what_training_did(tmp_path):
    trained, base = changed("t2v"), shipped_transformer("t2v")
    save_low_rank(low_rank_tensors(trained, base), tmp_path / "lora.safetensors", {})
    applied = copy.deepcopy(base)
    assert not apply_lora(applied, tmp_path / "lora.safetensors").ignored
    assert (velocity(trained) - velocity(base)).norm() > 0.05 * velocity(base).norm()
    torch.testing.assert_close(velocity(applied), velocity(trained), atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_a_walk_is_euler_without_guidance():
    models = shipped_models("t2v")
    text = "a red circle moving left over a teal background"
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(3))
    latents = walked(models, noise, models.prompts([text]), made.LEVELS)
    clip = generate(models, [text], [3], guidance=1.0, steps=made.GRID)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (models.vae.config.latents_mean, models.vae.config.latents_std)
    )
    torch.testing.assert_close(decode(models.vae, latents * std + mean).clamp(-1, 1), clip, atol=2e-3, rtol=0)


def test_trajectories_lead_from_noise_to_the_teachers_clip_and_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "BATCH", 2)
    engine = demo_engine("two experts")
    teacher = made.Teacher(engine, "unipc", 4)
    first = made.trajectories(teacher, tmp_path, 2, seed=0)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    more = made.trajectories(teacher, tmp_path, 4, seed=0)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert more.texts[:2] == first.texts
    assert torch.equal(more.latents[:2], first.latents)
    assert torch.equal(first.latents[1, 0], made.noise(0, 1).half())
    assert first.latents.shape == (2, made.GRID + 1, 16, 5, 8, 8)


def test_no_trajectory_is_of_a_held_out_combination():
    from tools.demo_model.captions import caption  # every caption of such a combination
    from tools.demo_model.world import combinations

    told = {made.prompt(random.Random(index))[0] for index in range(300)}
    held_out = {caption(one, random.Random(seed)) for one in combinations(held_out=True) for seed in range(40)}
    assert not told & held_out
