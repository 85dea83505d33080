"""A whole model: parts that belong together, conditioning against diffusers' pipelines, and frames from a folder on disk."""

import copy
import doctest
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_files
import tiny_model
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from tiny import relative_error
from tiny_model import NETWORKS, images, model_of, picture, pipeline_of, small
from tiny_transformer import original, save
from torch import Tensor

import fastvideo_core
from fastvideo_core import (
    VARIANTS,
    AttentionSettings,
    GuidanceSettings,
    SamplingRequest,
    VideoSize,
    WanModel,
)
from fastvideo_core.wan.parts import recognised

REQUEST = SamplingRequest(steps=3, shift=5.0, guidance_scale=4.0, guidance=GuidanceSettings(mode="batched"))
TWO_EXPERTS = replace(REQUEST, steps=4, low_noise_guidance_scale=1.0, boundary=0.9)


def prepared(kind: str, size: VideoSize, first: Tensor, last: Tensor | None = None) -> tuple[Tensor, ...]:
    """Diffusers' prepare_latents: latents, condition, and for TI2V the mask of the first frame."""
    parts = {"image_encoder": None, "image_processor": None, **pipeline_of(kind).components}
    pipe = WanImageToVideoPipeline(**parts, expand_timesteps=kind == "ti2v")
    with torch.no_grad():
        return pipe.prepare_latents(
            first * 2 - 1, 1, pipe.vae.config.z_dim, size.height, size.width, size.frames, torch.float32, torch.device("cpu"),
            last_image=None if last is None else last * 2 - 1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "last"), [("i2v clip", False), ("i2v two experts", False), ("i2v two experts", True), ("flf2v", True)]
)
def test_image_channels_are_those_of_diffusers_pipeline(kind: str, last: bool) -> None:
    ours = model_of(kind)
    size = small(ours)
    given = [picture(size), picture(size, seed=8) if last else None]
    conditioning = ours.condition("a cat", "", size, *given)
    assert conditioning.image.shape == (1, 20, 2, 4, 6)
    assert relative_error(conditioning.image, prepared(kind, size, *given)[1]) <= 1e-6


@pytest.mark.parametrize("kind", ["i2v clip", "flf2v"])
def test_image_tokens_are_those_of_the_encoder_one_image_after_the_other(kind: str) -> None:
    ours = model_of(kind)
    size = small(ours)
    given = images(kind, size)
    tokens = ours.condition("a cat", None, size, **given).image_tokens
    assert torch.equal(tokens, torch.cat([ours.image_encoder.encode(image) for image in given.values()], dim=1))
    assert tokens.shape == (1, 257 * len(given), tiny.IMAGE_DIM)


def test_the_given_frame_of_ti2v_is_the_condition_of_diffusers_pipeline() -> None:
    ours = model_of("ti2v")
    size = small(ours)
    frame = ours.condition("a cat", None, size, picture(size)).first_frame
    assert relative_error(frame.latents, prepared("ti2v", size, picture(size))[1]) <= 1e-6


def test_ti2v_runs_without_an_image_as_text_to_video() -> None:
    ours = model_of("ti2v")
    assert ours.condition("a cat", "", small(ours)).first_frame is None


@pytest.mark.parametrize("kind", NETWORKS)
def test_both_prompts_are_encoded_and_the_negative_may_be_left_out(kind: str) -> None:
    ours = model_of(kind)
    size = small(ours)
    both = ours.condition("a cat", "blurry", size, **images(kind, size))
    assert torch.equal(torch.cat([both.positive, both.negative]), ours.text_encoder.encode(["a cat", "blurry"]))
    assert ours.condition("a cat", None, size, **images(kind, size)).negative is None


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_repository_saved_by_diffusers_gives_the_same_video(kind: str, tmp_path: Path) -> None:
    pipeline_of(kind).save_pretrained(tmp_path / "checkpoint")
    loaded, by_hand = WanModel.load(tmp_path / "checkpoint"), model_of(kind)
    assert (loaded.name, loaded.boundary, loaded.first_frame) == ("checkpoint", by_hand.boundary, by_hand.first_frame)
    size = small(loaded)
    request = TWO_EXPERTS if "two experts" in kind else REQUEST
    videos = []
    for each in (loaded, by_hand):
        generation = each.generate(request, each.condition("a cat", "blurry", size, **images(kind, size)), size)
        assert len(list(generation)) == request.steps
        videos.append(each.decode(generation.latents))
    assert videos[0].shape == (1, 3, 5, size.height, size.width)
    assert relative_error(*videos) <= 1e-5


def test_single_files_give_the_same_video_as_their_repository(tmp_path: Path) -> None:
    pipeline_of("t2v two experts").save_pretrained(tmp_path / "checkpoint")
    high, low = NETWORKS["t2v two experts"].values()
    from_files = WanModel.from_files(
        transformer=save(original(high, "model.diffusion_model."), tmp_path / "high.safetensors"),
        low_noise_transformer=save(original(low, "model.diffusion_model."), tmp_path / "low.safetensors"),
        vae=tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae()),
        text_encoder=tiny_files.text_file(tmp_path / "umt5.safetensors", tiny_model.umt5().state_dict()),
    )
    latents = []
    for each in (from_files, WanModel.load(tmp_path / "checkpoint")):
        *_, last = each.generate(TWO_EXPERTS, each.condition("a cat", "blurry", small(each)), small(each))
        latents.append(last.latents)
    assert relative_error(*latents) <= 1e-5


def test_the_example_of_the_package_runs(tmp_path: Path) -> None:
    pipeline_of("t2v").save_pretrained(tmp_path)
    shown = []
    names = {"folder": tmp_path, "torch": torch, "device": "cpu", "show_progress": lambda *step: shown.append(step)}
    example = doctest.DocTestParser().get_doctest(fastvideo_core.__doc__, names, "example", None, 0)
    result = doctest.DocTestRunner().run(example, clear_globs=False)
    # The one that needs GPUs is left out.
    assert result.failed == 0 and result.attempted == len(example.examples) - 1 == 12
    assert [step[:2] for step in shown] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "unipc" in example.globs["report"]


def test_the_report_says_what_ran() -> None:
    ours = model_of("t2v two experts")
    size = small(ours)
    generation = ours.generate(TWO_EXPERTS, ours.condition("a cat", "", size), size)
    steps = list(generation)
    report = generation.report()
    assert (report.model, report.variant, report.dtype) == ("t2v two experts", "not a published size", "float32")
    assert (report.guidance_mode, report.latent_shape) == ("batched", (1, 16, 2, 4, 6))
    assert [(phase.expert, phase.calls) for phase in report.phases] == [("high_noise", {"2": 2}), ("low_noise", {"1": 2})]
    assert report.step_seconds == tuple(step.seconds for step in steps)


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        (None, "512 rows folded into 16, keys and values kept over the steps"),
        (AttentionSettings(keep_keys=False), "512 rows folded into 16"),
    ],
)
def test_the_report_says_how_the_text_was_read(attention: AttentionSettings | None, said: str) -> None:
    ours = model_of("t2v two experts")
    size = small(ours)
    generation = ours.generate(TWO_EXPERTS, ours.condition("a cat", "", size), size, attention=attention)
    next(generation)
    lines = generation.report().text().splitlines()
    assert [line for line in lines if line.startswith("text")] == [
        f"text of the high-noise expert: {said}", f"text of the low-noise expert: {said}"
    ]  # fmt: skip
    assert json.loads(generation.report().json())["texts"][0]["read"] == 16
    generation.close()


def test_the_report_says_why_all_rows_of_the_text_were_read() -> None:
    ours = copy.deepcopy(model_of("t2v"))  # its network is changed below
    size = small(ours)
    conditioning = ours.condition("a cat", "", size)
    full = replace(conditioning, positive=torch.ones_like(conditioning.positive))
    report = ours.generate(REQUEST, full, size).report()
    assert "text of the single expert: all 512 rows read (too few of them are zero)" in report.text()
    (transformer,) = ours.transformers.values()
    transformer.set_attn_processor(type("Own", (type(transformer.blocks[0].attn2.processor),), {})())
    report = ours.generate(REQUEST, conditioning, size).report()
    assert "text of the single expert: all 512 rows read (its attention was changed)" in report.text()


def test_a_generation_that_is_closed_early_reports_what_ran() -> None:
    ours = model_of("t2v")
    size = small(ours)
    generation = ours.generate(REQUEST, ours.condition("a cat", "", size), size)
    step = next(generation)
    generation.close()
    assert torch.equal(generation.latents, step.latents)
    assert len(generation.report().step_seconds) == 1
    assert next(generation, None) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_on_the_gpu_only_while_they_work_and_the_video_is_the_same(kind: str, tmp_path: Path) -> None:
    pipeline_of(kind).save_pretrained(tmp_path)
    request = TWO_EXPERTS if "two experts" in kind else REQUEST
    videos = []
    for device in ("cpu", "cuda"):
        ours = WanModel.load(tmp_path, device=device)
        generation = ours.generate(
            request, ours.condition("a cat", "blurry", small(ours), **images(kind, small(ours))), small(ours)
        )
        assert {step.latents.device.type for step in generation} == {device}
        videos.append(ours.decode(generation.latents).cpu())
        networks = [*ours.transformers.values(), ours.vae.network, ours.text_encoder.network]
        assert {parameter.device.type for network in networks for parameter in network.parameters()} == {"cpu"}
    assert relative_error(*videos) <= 1e-2  # convolutions run in TF32 on CUDA


def test_the_published_sizes_are_recognised() -> None:
    rows = VARIANTS.values()
    for row in rows:
        with torch.device("meta"):
            network = WanTransformer3DModel(
                num_attention_heads=row.dim // 128, num_layers=1, in_channels=row.in_channels, out_channels=row.latent_channels,
                image_dim=1280 if row.image_tokens else None, pos_embed_seq_len=514 if row.image_tokens == 514 else None,
                ffn_dim=8,
            )  # fmt: skip
        network.register_to_config(num_layers=row.layers)
        experts = ("high_noise", "low_noise") if row.two_experts else ("single",)
        assert row in recognised(dict.fromkeys(experts, network))
