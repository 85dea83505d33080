"""Training really trains, resumes exactly where it stopped, and its shortcuts change no number."""

import dataclasses
import random

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from tools.demo_model import loop
from tools.demo_model.captions import caption
from tools.demo_model.latents import Latents, cached_latents, settle_statistics, with_images
from tools.demo_model.precision import half_precision
from tools.demo_model.text import TEXT_DIM, PromptEncoder, train_tokenizer
from tools.demo_model.train_transformers import BOUNDARY, CLIPS, HIGH_NOISE, IMAGE, LOW_NOISE, Lesson, TextToVideo, lesson_loss
from tools.demo_model.train_vae import STAGES, training_clips, vae_loss
from tools.demo_model.transformer import TEXT_ROWS, build_transformer, image_to_video_from
from tools.demo_model.vae import build_vae, decode, encode
from tools.demo_model.world import render, sample_scene


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def clips(count):
    rng = random.Random(3)
    return render([sample_scene(rng) for _ in range(count)])


def tiny_vae():
    vae = build_vae(base_dim=4)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # weights over time too, as after training
    return vae


def short(stage, steps):
    return dataclasses.replace(stage, steps=steps, batch=2, warmup=1)


def latents(count):
    scenes = [sample_scene(random.Random(index)) for index in range(count)]
    return Latents(scenes, torch.randn(count, 16, 5, 8, 8).half(), torch.randn(count, 16, 5, 8, 8).half())


def test_whole_clips_in_one_pass_equal_the_chunked_vae():
    vae, video = tiny_vae(), clips(2)
    with torch.no_grad():
        expected = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(encode(vae, video), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decode(vae, expected).clamp(-1, 1), vae.decode(expected).sample, atol=5e-5, rtol=1e-5)


def test_settled_statistics_are_wans_and_change_no_reconstruction():
    vae, video = tiny_vae(), clips(4)
    with torch.no_grad():
        before = decode(vae, encode(vae, video))
        settle_statistics(vae, video)
        latent = encode(vae, video)
        torch.testing.assert_close(decode(vae, latent), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latent.mean((0, 2, 3, 4)), torch.tensor(vae.config.latents_mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3, 4)), torch.tensor(vae.config.latents_std), atol=1e-3, rtol=0)


def test_one_row_for_all_empty_rows_equals_512_rows():
    prompts, model = PromptEncoder(train_tokenizer()), build_transformer()
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    noise, timesteps = torch.randn(2, 16, 5, 8, 8), torch.tensor([900.0, 100.0])
    with torch.no_grad():
        rows = prompts(["a red circle moving left over a teal background", ""])
        folded = model(noise, timesteps, rows, return_dict=False)[0]
        for block in model.blocks:
            block.attn2.set_processor(WanAttnProcessor())
        every = torch.zeros(2, TEXT_ROWS, TEXT_DIM)
        every[:, : rows.shape[1]] = rows
        torch.testing.assert_close(folded, model(noise, timesteps, every, return_dict=False)[0], atol=2e-5, rtol=1e-5)


def test_an_image_to_video_model_starts_as_the_text_to_video_one():
    base = build_transformer()
    torch.nn.init.normal_(base.proj_out.weight, std=0.05)
    model, noise, extra = image_to_video_from(base), torch.randn(1, 16, 2, 8, 8), torch.randn(1, 20, 2, 8, 8)
    rows, timesteps = torch.randn(1, 5, TEXT_DIM), torch.tensor([500.0])
    with torch.no_grad():
        expected = base(noise, timesteps, rows, return_dict=False)[0]
        found = model(torch.cat([noise, extra], 1), timesteps, rows, return_dict=False)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("native", [True, False])
def test_training_is_in_half_precision_only_where_the_cpu_has_it(monkeypatch, native):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    with half_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[2]], ids=lambda stage: stage.name)
def test_a_few_steps_lower_the_vaes_loss(stage, tmp_path):
    vae, stage = build_vae(base_dim=8), short(stage, 8)
    before = vae_loss(vae, stage, 0, 0).item()
    loop.train_stage(stage, vae, lambda step: vae_loss(vae, stage, 0, 0), tmp_path)
    assert vae_loss(vae, stage, 0, 0).item() < 0.9 * before


LESSONS = (Lesson(CLIPS), Lesson(IMAGE, image=True), Lesson(HIGH_NOISE, low=BOUNDARY), Lesson(LOW_NOISE, high=BOUNDARY))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stage.name)
def test_a_few_steps_lower_the_transformers_loss(lesson, tmp_path):
    model, data = TextToVideo(PromptEncoder(train_tokenizer()), build_transformer()), latents(4)
    if lesson.image:
        model.transformer = image_to_video_from(model.transformer)
    lesson = dataclasses.replace(lesson, stage=short(lesson.stage, 8))

    def loss(step):
        return lesson_loss(lesson, model.transformer, model.prompts, data, 0, 0)

    before = loss(0).item()
    loop.train_stage(lesson.stage, model, loss, tmp_path)
    assert loss(0).item() < before


def test_an_interrupted_stage_continues_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    stage = short(STAGES[0], 6)

    def train(folder, stop):
        torch.manual_seed(0)
        vae = build_vae(base_dim=4)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            return vae_loss(vae, stage, step, 0)

        folder.mkdir(exist_ok=True)
        loop.train_stage(stage, vae, loss, folder)
        return vae.state_dict()

    straight = train(tmp_path / "straight", stop=None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "interrupted", stop=3)
    resumed = train(tmp_path / "interrupted", stop=None)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_best_judged_weights_are_kept_also_across_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "JUDGED_STEPS", 2)
    stage = short(STAGES[0], 6)
    scores, averages = iter([0.1, 0.7, 0.3]), []

    def train(stop):
        torch.manual_seed(0)
        vae = build_vae(base_dim=4)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            return vae_loss(vae, stage, step, 0)

        def judged():
            averages.append({name: value.clone() for name, value in vae.state_dict().items()})
            return next(scores)

        loop.train_stage(stage, vae, loss, tmp_path, judged)
        return vae.state_dict()

    with pytest.raises(KeyboardInterrupt):
        train(stop=5)
    found = train(stop=None)
    assert len(averages) == 3
    assert all(torch.equal(found[name], averages[1][name]) for name in found)
    assert not all(torch.equal(found[name], averages[2][name]) for name in found)


def test_windows_have_the_stages_size():
    for stage, shape in zip(STAGES, ((1, 32), (5, 32), (17, 32)), strict=True):
        assert training_clips(short(stage, 1), 0, 0).shape == (2, 3, shape[0], shape[1], shape[1])


def _cached(vae, folder):
    return with_images(vae, cached_latents(vae, folder / "clips.pt", 4, 0), folder / "images.pt")


def test_cached_latents_are_read_back_and_the_first_frame_is_alike(tmp_path):
    vae = tiny_vae().requires_grad_(False)
    first, again = (_cached(vae, tmp_path) for _ in range(2))
    assert first.scenes == again.scenes
    assert torch.equal(first.clips, again.clips)
    torch.testing.assert_close(first.images[:, :, 0], first.clips[:, :, 0])  # causal: later frames do not matter
    condition = first.condition(torch.tensor([0, 2]))
    assert condition.shape == (2, 20, 5, 8, 8)
    assert condition[:, :4, 0].eq(1).all()
    assert condition[:, :4, 1:].eq(0).all()


def test_captions_name_what_the_scene_shows():
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        text = caption(scene.combination, rng).lower()
        assert all(word in text for word in (scene.shape, scene.colour, scene.background))
