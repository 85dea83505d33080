"""ComfyUI's own network, counted: under KSampler, and under FastVideo Sampler."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fastvideo_core.attention import select
from fastvideo_core.wan.loading import original_keys
from tools.comfy_in_process import ComfyInProcess

from .paper_count import ANSWERS, Counter, counting
from .paper_videos import Video

ROOT = Path(__file__).resolve().parents[2]
STEPS = 1
OF_THE_HOST = {
    "comfy/samplers.py:CFGGuider.inner_sample": lambda nonzero: 0,
    "comfy/samplers.py:Sampler.max_denoise": lambda level: 1.0,
    "nodes/native/text.py:GenerationText.check": lambda longer: 0,
    "nodes/native/generation.py:generation_of": lambda given: 1,
}
"""As `ANSWERS`, where core and the pack's nodes read values."""


def ksampler(video: Video, layers: int, host: ComfyInProcess) -> Counter:
    """Both branches in one call, as core does where memory is free."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    from nodes import common_ksampler

    with _in_comfyui(video, layers, host) as (counter, model, (positive, negative), latent):
        (shifted,) = ModelSamplingSD3().patch(model, video.row.shift)
        common_ksampler(
            shifted, 1, STEPS, video.row.guidance_scale, "euler", "simple", positive, negative, latent
        )  # fmt: skip
        return counter


def fastvideo_sampler(video: Video, layers: int, host: ComfyInProcess) -> Counter:
    """With FastVideo Attention, which folds the text; on the same network as KSampler."""
    with _in_comfyui(video, layers, host) as (counter, model, (positive, negative), latent):
        folding = {"self_attention": "sdpa", "cross_attention": "sdpa", "fold_text": True}
        attending = host.node_classes["FastVideoAttention"].execute(model=model, **folding)[0]
        host.node_classes["FastVideoSampler"].execute(
            model=attending, positive=positive, negative=negative, latent=latent, seed=1, steps=STEPS, shift=video.row.shift,
            solver="euler", guidance_scale=video.row.guidance_scale, guidance_mode="batched", gate=1.0, guidance_rescale=0.0,
            low_noise_guidance_scale=1.0, boundary=0.875,
        )  # fmt: skip
        return counter


@contextmanager
def _in_comfyui(video: Video, layers: int, host: ComfyInProcess) -> Iterator[tuple[Counter, Any, tuple[Any, Any], Any]]:
    """The counter, and MODEL, CONDITIONINGs and LATENT. host: with the pack."""
    import latent_preview
    from comfy import utils
    from comfy.sd import load_diffusion_model_state_dict

    utils.set_progress_bar_global_hook(None)  # nobody listens
    utils.PROGRESS_BAR_ENABLED = False
    with counting((host.tree / "comfy", ROOT / "nodes"), {**ANSWERS, **OF_THE_HOST}) as counter, _on_gpu():
        with counter.gpu.valueless():
            weights = original_keys(video.size.network(torch.bfloat16, layers).state_dict())
            model = load_diffusion_model_state_dict({key: value.bfloat16() for key, value in weights.items()})

        def step_done(step: int, denoised: Any, latents: Any, steps: int) -> None:
            counter.step()

        with mock.patch.object(latent_preview, "prepare_callback", lambda *_, **__: step_done):
            yield counter, model, _texts(video), {"samples": torch.zeros(video.size.shape)}


@contextmanager
def _on_gpu() -> Iterator[None]:
    """Core as on a computer with a GPU; attention is not tried, which would need values."""
    from comfy import model_management as core

    with ExitStack() as stack:
        for name, value in (
            ("cpu_state", core.CPUState.GPU), ("vram_state", core.VRAMState.NORMAL_VRAM), ("current_loaded_models", []),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(core, name, value))
        stack.enter_context(mock.patch.object(select, "faults", lambda *_: ()))
        yield


def _texts(video: Video) -> tuple[list[Any], list[Any]]:
    """CONDITIONING as core's Wan nodes make it."""
    given, extra = video.conditioning(), {"pooled_output": None}
    if given.image is not None:
        extra |= {"concat_latent_image": given.image[:, 4:], "concat_mask": given.image[:, :4]}
    if given.image_tokens is not None:
        from comfy.clip_vision import Output

        extra["clip_vision_output"] = Output()
        extra["clip_vision_output"].penultimate_hidden_states = given.image_tokens
    return [[given.positive.float(), extra]], [[given.negative.float(), extra]]
