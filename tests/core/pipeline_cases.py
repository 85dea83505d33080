"""Wan's variants as diffusers' own pipelines run them: one model, one set of conditions, told to both sides.

The reference gets our noise levels and float timesteps (`Given...`), because its own are off.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from fastvideo_core import Conditioning, GivenFrame, GuidanceSettings, SamplingRequest, image_condition, seeded_noise
from fastvideo_core.schedule import TIMESTEPS

Networks = dict[str, WanTransformer3DModel]
Levels = tuple[float, ...]

FRAMES = 9


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
