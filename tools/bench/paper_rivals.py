"""Diffusers' pipelines, counted."""

from typing import Any

import torch
from torch import Tensor

from .paper_count import Counter, counting
from .paper_videos import Video


def diffusers(video: Video, layers: int) -> Counter:
    """WanPipeline or WanImageToVideoPipeline, which calls the network once for each branch."""
    given = video.conditioning()
    with counting() as counter:
        with counter.gpu.valueless():
            network = video.size.network(torch.bfloat16, layers)
        network.to("cuda")
        pipeline = _pipeline(video, network)

        def step_done(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            counter.step()
            return tensors

        image = {"image": torch.zeros(1, 3, video.height, video.width)} if given.image is not None else {}
        pipeline(
            prompt_embeds=given.positive.to("cuda"), negative_prompt_embeds=given.negative.to("cuda"),  # type: ignore[union-attr]
            latents=torch.zeros(video.size.shape, device="cuda"), output_type="latent", height=video.height, width=video.width,
            num_frames=video.frames, num_inference_steps=1, guidance_scale=video.row.guidance_scale,
            callback_on_step_end=step_done, **image,
        )  # fmt: skip
        return counter


def _pipeline(video: Video, network: Any) -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline

    given = video.conditioning()

    class GivenImage(WanImageToVideoPipeline):  # type: ignore[misc]
        """Whose image was encoded before."""

        def encode_image(self, image: Any, device: Any = None) -> Tensor:
            return given.image_tokens.to("cuda")  # type: ignore[union-attr]

        def prepare_latents(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return torch.zeros(video.size.shape, device="cuda"), given.image.to("cuda")  # type: ignore[union-attr]

    kind = WanPipeline if given.image is None else GivenImage
    vae = AutoencoderKLWan(
        base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, z_dim=video.row.latent_channels,
        scale_factor_spatial=video.row.spatial, latents_mean=[0.0] * video.row.latent_channels,
        latents_std=[1.0] * video.row.latent_channels,
    )  # fmt: skip  # only asked for its compression

    class FromTheFirst(UniPCMultistepScheduler):  # type: ignore[misc]
        """Which does not search for its first step by values."""

        def index_for_timestep(self, *_: Any, **__: Any) -> int:
            return 0

    images = {"image_encoder": None, "image_processor": None} if given.image is not None else {}
    more = {"expand_timesteps": True} if video.row.first_frame else {}
    pipeline = kind(
        tokenizer=None, text_encoder=None, vae=vae, transformer=network, scheduler=FromTheFirst(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=video.row.shift
        ), **images, **more,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
