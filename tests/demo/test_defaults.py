"""Captions with parts left out: what they say, what they stand for, and the training that teaches it."""

import copy
import dataclasses
import random

import pytest
import torch

from tools.demo_model import loop, train_defaults
from tools.demo_model.captions import ATTRIBUTES, DEFAULTS, shortened
from tools.demo_model.latents import Latents
from tools.demo_model.text import PromptEncoder, train_tokenizer
from tools.demo_model.train_defaults import SETTLED, SHORTENED, Reader, Shortened, defaults_loss, settled_loss
from tools.demo_model.transformer import build_transformer, image_to_video_from
from tools.demo_model.world import combinations


def test_a_shortened_caption_names_what_is_said_and_nothing_else():
    rng = random.Random(0)
    for _ in range(300):
        combination = rng.choice(combinations(held_out=False))
        said = train_defaults.said_attributes(rng)
        short, full = (text.lower() for text in shortened(combination, said, rng))
        for name, value in zip(ATTRIBUTES, combination, strict=True):
            if name != "motion":  # which has wordings of its own
                assert (value in short) == (name in said), short
                assert value in full
        assert "  " not in short and "[" not in short and "{" not in short


def test_what_is_not_said_is_the_default_and_held_out_combinations_stay_so():
    rng = random.Random(0)
    for _ in range(100):
        said = train_defaults.said_attributes(rng)
        scene = train_defaults._default_scene(said, rng)
        assert scene.combination in combinations(held_out=False)
        values = zip(ATTRIBUTES, scene.combination, DEFAULTS, strict=True)
        assert all(value == default for name, value, default in values if name not in said)


def clips():
    rng = random.Random(0)
    said = [train_defaults.said_attributes(rng) for _ in range(4)]
    scenes = [train_defaults._default_scene(names, rng) for names in said]
    return Shortened(Latents(scenes, torch.randn(4, 16, 5, 8, 8).half(), torch.randn(4, 16, 5, 8, 8).half()), said)


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(train_defaults, "KEPT", 8)
    for name, stage in (("SHORTENED", SHORTENED), ("SETTLED", SETTLED)):
        monkeypatch.setattr(train_defaults, name, dataclasses.replace(stage, steps=8, batch=4, warmup=1))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("image", [False, True])
def test_a_few_steps_bring_shortened_captions_nearer_to_full_ones(image, tmp_path):
    torch.manual_seed(0)
    prompts, model = PromptEncoder(train_tokenizer()), build_transformer()
    torch.nn.init.normal_(model.proj_out.weight, std=0.5)
    readers = [Reader((image_to_video_from(model) if image else model).requires_grad_(False), image=image)]
    before, data = copy.deepcopy(prompts), clips()

    def loss(step):
        return defaults_loss(prompts, before, readers, data, 0, 0)

    first = loss(0).item()
    loop.train_stage(train_defaults.SHORTENED, prompts, loss, tmp_path)
    assert loss(0).item() < first


@pytest.mark.usefixtures("_small")
def test_the_last_stage_brings_full_captions_back_to_their_rows(tmp_path):
    before, prompts = PromptEncoder(train_tokenizer()), PromptEncoder(train_tokenizer())
    prompts.load_state_dict(before.state_dict())
    with torch.no_grad():
        for weight in prompts.encoder.parameters():
            weight.add_(0.1 * weight.std() * torch.randn_like(weight))
    taught = copy.deepcopy(prompts)

    def loss(step):
        return settled_loss(prompts, before, taught, 0, 0)

    first = loss(0).item()
    loop.train_stage(train_defaults.SETTLED, prompts, loss, tmp_path)
    assert loss(0).item() < first
