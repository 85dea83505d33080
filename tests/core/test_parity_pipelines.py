"""Whole generations against diffusers' own pipelines, on the same tiny real networks, VAEs and CLIP encoder.

The reference gets our noise levels and float timesteps (`Given...` below), because its own are off; the last tests show by how
much, and where else it departs from what was asked.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from tiny import relative_error
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from fastvideo_core import Conditioning, GivenFrame, GuidanceSettings, SamplingRequest, image_condition, seeded_noise
from fastvideo_core.schedule import TIMESTEPS, Expert, shift_sigma

Networks = dict[Expert, WanTransformer3DModel]
Levels = tuple[float, ...]

FRAMES = 9
TOLERANCE = 1e-5
"""Relative L2 error in float32: rounding of two orders of summation over some steps; measured 5e-7 to 1.5e-6."""


class GivenUniPC(UniPCMultistepScheduler):
    """Diffusers' UniPC on given noise levels, telling the network timesteps that are not cut to integers."""

    levels: Levels

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(sigmas=np.array(self.levels[:-1]), device=device)
        self.timesteps = torch.tensor(self.levels[:-1]) * TIMESTEPS


class GivenEuler(FlowMatchEulerDiscreteScheduler):
    """Diffusers' flow Euler on given noise levels, shifted once: by whoever gave them."""

    levels: Levels

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(sigmas=list(self.levels[:-1]), device=device)


def given_scheduler(solver: str, levels: Levels) -> GivenUniPC | GivenEuler:
    unipc = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.0}
    scheduler = GivenUniPC(**unipc) if solver == "unipc" else GivenEuler(shift=1.0)
    scheduler.levels = levels
    return scheduler


@dataclass
class Case:
    """One model, what it is told, and the same for diffusers' pipeline."""

    networks: Networks
    condition: Conditioning
    vae: AutoencoderKLWan
    shape: tuple[int, ...] = tiny.SHAPE
    boundary: float | None = None
    low_noise_guidance_scale: float | None = None
    images: dict[str, Image.Image] = field(default_factory=dict)
    clip: CLIPVisionModel | None = None
    expand_timesteps: bool = False

    def request(self, **changes: Any) -> SamplingRequest:
        settings = {
            "steps": 6, "shift": 5.0, "guidance_scale": 4.0, "boundary": self.boundary, "seed": 7,
            "low_noise_guidance_scale": self.low_noise_guidance_scale, "guidance": GuidanceSettings(mode="sequential"),
        }  # fmt: skip
        return SamplingRequest(**(settings | changes))

    def ours(self, request: SamplingRequest) -> Tensor:
        return tiny.run(request, self.networks, self.condition, self.shape)[0][-1].latents

    def pipeline(self, scheduler: Any) -> WanPipeline | WanImageToVideoPipeline:
        parts = {
            "tokenizer": None, "text_encoder": None, "vae": self.vae, "scheduler": scheduler,
            "transformer": self.networks.get("single", self.networks.get("high_noise")),
            "transformer_2": self.networks.get("low_noise"), "boundary_ratio": self.boundary,
            "expand_timesteps": self.expand_timesteps,
        }  # fmt: skip
        if not self.images:
            return WanPipeline(**parts)
        return WanImageToVideoPipeline(**parts, image_encoder=self.clip, image_processor=CLIPImageProcessor())

    def theirs(self, request: SamplingRequest, scheduler: Any = None) -> Tensor:
        pipeline = self.pipeline(scheduler or given_scheduler(request.solver, request.plan().sigmas))
        pipeline.set_progress_bar_config(disable=True)
        spatial = pipeline.vae_scale_factor_spatial
        return pipeline(
            **self.images,
            prompt_embeds=self.condition.positive,
            negative_prompt_embeds=self.condition.negative,
            height=self.shape[3] * spatial,
            width=self.shape[4] * spatial,
            num_frames=FRAMES,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_scale_2=request.low_noise_guidance_scale,
            latents=seeded_noise(self.shape, request.seed),
            output_type="latent",
        ).frames


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> Tensor:
    """(1, 3, 1, H, W) in -1..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, None] / 127.5 - 1


@torch.no_grad()
def encoded(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Normalised latents of a video, the mode of the VAE's distribution."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (vae.encode(video).latent_dist.mode() - mean) / std


def frames_condition(vae: AutoencoderKLWan, first: Image.Image, last: Image.Image | None) -> Tensor:
    """The 20 channels for a given first, or first and last, frame: the unknown ones are grey, 0 in -1..1."""
    known = torch.zeros(FRAMES, dtype=torch.bool)
    video = torch.zeros(1, 3, FRAMES, first.height, first.width)
    video[:, :, :1], known[0] = pixels(first), True
    if last is not None:
        video[:, :, -1:], known[-1] = pixels(last), True
    return image_condition(encoded(vae, video), known)


def tiny_clip() -> CLIPVisionModel:
    """CLIP's vision encoder at ViT-H's grid: 224 / 14 squared and the class token are 257 tokens."""
    config = CLIPVisionConfig(
        hidden_size=tiny.IMAGE_DIM,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
    )
    return tiny.seeded(5, CLIPVisionModel, config).eval()


@torch.no_grad()
def clip_tokens(clip: CLIPVisionModel, *images: Image.Image) -> Tensor:
    """(1, 257 per image, D): the penultimate layer, one image after the other."""
    inputs = CLIPImageProcessor()(images=list(images), return_tensors="pt")
    return clip(**inputs, output_hidden_states=True).hidden_states[-2].flatten(0, 1)[None]


def text_to_video() -> Case:
    return Case({"single": tiny.t2v()}, tiny.conditioning(), tiny.vae())


def text_to_video_two_experts() -> Case:
    networks: Networks = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    return Case(networks, tiny.conditioning(), tiny.vae(), boundary=0.875, low_noise_guidance_scale=3.0)


def image_to_video_clip() -> Case:
    vae, clip, first = tiny.vae(), tiny_clip(), picture(1, 48, 32)
    condition = Conditioning(**tiny.texts(), image=frames_condition(vae, first, None), image_tokens=clip_tokens(clip, first))
    return Case({"single": tiny.i2v_clip()}, condition, vae, images={"image": first}, clip=clip)


def first_and_last_frame_to_video() -> Case:
    vae, clip, first, last = tiny.vae(), tiny_clip(), picture(1, 48, 32), picture(2, 48, 32)
    tokens = clip_tokens(clip, first, last)
    condition = Conditioning(**tiny.texts(), image=frames_condition(vae, first, last), image_tokens=tokens)
    return Case({"single": tiny.flf2v()}, condition, vae, images={"image": first, "last_image": last}, clip=clip)


def image_to_video_two_experts(last: Image.Image | None = None) -> Case:
    vae, first = tiny.vae(), picture(1, 48, 32)
    networks: Networks = {"high_noise": tiny.i2v(1), "low_noise": tiny.i2v(2)}
    condition = Conditioning(**tiny.texts(), image=frames_condition(vae, first, last))
    images = {"image": first} | ({} if last is None else {"last_image": last})
    return Case(networks, condition, vae, boundary=0.9, low_noise_guidance_scale=3.5, images=images)


def first_and_last_frame_two_experts() -> Case:
    return image_to_video_two_experts(last=picture(2, 48, 32))


def text_to_video_5b() -> Case:
    return Case({"single": tiny.ti2v()}, tiny.conditioning(), tiny.vae_48(), tiny.SHAPE_48, expand_timesteps=True)


def image_to_video_5b() -> Case:
    vae, first = tiny.vae_48(), picture(1, 96, 64)
    condition = Conditioning(**tiny.texts(), first_frame=GivenFrame(encoded(vae, pixels(first))))
    return Case({"single": tiny.ti2v()}, condition, vae, tiny.SHAPE_48, images={"image": first}, expand_timesteps=True)


CASES = [
    text_to_video, text_to_video_two_experts, image_to_video_clip, first_and_last_frame_to_video, image_to_video_two_experts,
    first_and_last_frame_two_experts, text_to_video_5b, image_to_video_5b,
]  # fmt: skip


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_latents_equal_those_of_diffusers_pipeline(make: Any, solver: str, mode: str) -> None:
    case = make()
    request = case.request(solver=solver, guidance=GuidanceSettings(mode=mode))
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


@pytest.mark.parametrize("make", [text_to_video, image_to_video_clip, image_to_video_5b], ids=lambda make: make.__name__)
def test_latents_equal_those_of_diffusers_pipeline_without_guidance(make: Any) -> None:
    case = make()
    request = case.request(guidance_scale=1.0)
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_latents_equal_those_of_diffusers_pipeline_for_few_and_many_steps(steps: int) -> None:
    case = text_to_video()
    request = case.request(steps=steps, shift=8.0)
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


def test_the_conditions_matter_to_the_result() -> None:
    # Without this, networks that ignore what they are told would pass the parity tests.
    case = first_and_last_frame_to_video()
    request, whole = case.request(), case.ours(case.request())
    for name in ("positive", "negative", "image", "image_tokens"):
        changed = Case(case.networks, replaced(case.condition, name), case.vae)
        assert relative_error(changed.ours(request), whole) > 1e-3, name


def replaced(condition: Conditioning, name: str) -> Conditioning:
    parts = {part: getattr(condition, part) for part in ("positive", "negative", "image", "image_tokens")}
    return Conditioning(**(parts | {name: parts[name].flip(-1)}))


def test_the_given_first_frame_is_in_the_result_unchanged() -> None:
    case = image_to_video_5b()
    assert case.condition.first_frame is not None
    assert torch.equal(case.ours(case.request())[:, :, :1], case.condition.first_frame.latents)


def test_reference_off_its_timesteps_are_cut_to_integers() -> None:
    case = text_to_video()
    request = case.request()
    scheduler = given_scheduler("unipc", request.plan().sigmas)
    cut = relative_error(case.theirs(request, CutTimesteps.of(scheduler)), case.ours(request))
    assert 3e-3 < cut < 3e-2  # 0.99 % here


class CutTimesteps(GivenUniPC):
    """Our noise levels with diffusers' own timesteps: those of its UniPC, int64."""

    @classmethod
    def of(cls, scheduler: GivenUniPC) -> "CutTimesteps":
        made = cls.from_config(scheduler.config)
        made.levels = scheduler.levels
        return made

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        UniPCMultistepScheduler.set_timesteps(self, sigmas=np.array(self.levels[:-1]), device=device)


def test_reference_off_its_unipc_ends_above_the_official_last_level() -> None:
    # linspace(1, 1/1000) instead of linspace(1, 0): Wan's 40 steps at shift 12 end with .2426 instead of .2353.
    stock = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0)
    stock.set_timesteps(40)
    official = shift_sigma(1 / 40, 12.0)
    assert float(stock.sigmas[39]) - official == pytest.approx(0.0071, abs=2e-4)


def test_reference_off_its_flow_euler_shifts_twice() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=5.0)
    stock.set_timesteps(4)
    # Its range ends at shift(1/1000), and the evenly spaced levels between are shifted once more.
    even = np.linspace(1, shift_sigma(1 / 1000, 5.0), 4)
    np.testing.assert_allclose(stock.sigmas[:-1], [shift_sigma(float(level), 5.0) for level in even], atol=1e-6)
    case = text_to_video()
    request = case.request(steps=4, solver="euler")
    assert relative_error(case.theirs(request, stock), case.ours(request)) > 0.03  # 6.8 % here


def test_reference_off_it_guides_by_the_first_scale_alone() -> None:
    # Asked for no guidance at high noise and 3 at low noise, it gives no guidance at all.
    case = text_to_video_two_experts()
    asked = case.request(guidance_scale=1.0, low_noise_guidance_scale=3.0)
    without = case.request(guidance_scale=1.0, low_noise_guidance_scale=1.0)
    assert relative_error(case.theirs(asked), case.ours(without)) <= TOLERANCE
    assert relative_error(case.theirs(asked), case.ours(asked)) > 1e-2


def test_reference_off_it_runs_a_negative_branch_that_scale_1_cancels() -> None:
    case = text_to_video_two_experts()
    request = case.request(guidance_scale=3.0, low_noise_guidance_scale=1.0)
    with tiny.recorded_batches(case.networks["low_noise"]) as ours:
        video = case.ours(request)
    with tiny.recorded_batches(case.networks["low_noise"]) as theirs:
        assert relative_error(case.theirs(request), video) <= TOLERANCE
    assert len(theirs) == 2 * len(ours)
