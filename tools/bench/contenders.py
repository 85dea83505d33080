"""The ways to the same video that are compared: bare calls, the engine, diffusers' pipeline. ComfyUI's are in comfyui.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastvideo_core import Conditioning, Guidance, GuidanceMode, GuidanceSettings, SamplingRequest, generate, seeded_noise
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.fast_linears import fast_linears
from fastvideo_core.wan.linear import LinearAccount
from fastvideo_core.wan.loading import load_transformer

from .sizes import Size

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


PROMPT_TOKENS, NEGATIVE_PROMPT_TOKENS = 80, 126
"""Rows of the texts that are no padding."""


@dataclass(frozen=True)
class Contender:
    """run: one whole generation; its latents (1, 16, T, H, W), normalised, or None where there is no video.
    floor: name of the contender whose time this one's is divided by. network: what its transformer calls go to."""

    name: str
    floor: str
    network: nn.Module
    run: Callable[[], Tensor | None]


@dataclass(frozen=True)
class Task:
    """The generation that all contenders do: the neutral settings, and one solver that all of them have."""

    size: Size
    steps: int
    device: torch.device
    shift: float = 5.0
    guidance_scale: float = 5.0
    seed: int = 1

    def request(self, mode: GuidanceMode) -> SamplingRequest:
        return SamplingRequest(
            steps=self.steps,
            shift=self.shift,
            guidance_scale=self.guidance_scale,
            solver="euler",
            seed=self.seed,
            guidance=GuidanceSettings(mode=mode),
        )

    def texts(self) -> tuple[Tensor, Tensor]:
        """Positive and negative text, (1, 512, text_dim) float32: random rows, and zeros beyond them as Wan pads its prompts."""
        return self._text(11, PROMPT_TOKENS), self._text(12, NEGATIVE_PROMPT_TOKENS)

    def _text(self, seed: int, tokens: int) -> Tensor:
        rows = seeded_noise((1, 512, self.size.text_dim), seed)
        rows[:, tokens:] = 0
        return rows


def engine_contenders(task: Task, file: Path) -> list[Contender]:
    """Everything that runs diffusers' network; they share one copy of the weights, which stays on the device."""
    network = load_transformer(file, task.size.dtype).to(task.device)
    both, single = "bare calls, both branches", "bare calls, branch by branch"
    return [
        Contender(both, both, network, bare_calls(task, network, branches=2)),
        Contender(f"{both}, fast linears", both, network, with_fast_linears(network, bare_calls(task, network, branches=2))),
        Contender("engine, batched", both, network, engine(task, network, "batched")),
        Contender("engine, batched, keys in every step", both, network, engine(task, network, "batched", keep_keys=False)),
        Contender("engine, batched, text unfolded", both, network, engine(task, network, "batched", fold_text=False)),
        Contender(single, single, network, bare_calls(task, network, branches=1)),
        Contender("engine, sequential", single, network, engine(task, network, "sequential")),
        Contender("diffusers WanPipeline", single, network, pipeline(task, network)),
    ]


def bare_calls(task: Task, network: "WanTransformer3DModel", branches: int) -> Callable[[], None]:
    """The transformer calls of a generation and nothing else."""
    texts = [text.to(task.device, task.size.dtype) for text in task.texts()]
    latents = seeded_noise(task.size.shape, task.seed, task.device).to(task.size.dtype)
    together = torch.cat([latents] * branches), torch.cat(texts) if branches == 2 else None
    timesteps = [torch.full((branches,), 1000 * sigma, device=task.device) for sigma in task.request("batched").plan().sigmas]

    @torch.no_grad()
    def run() -> None:
        for timestep in timesteps[:-1]:
            for text in texts if together[1] is None else [together[1]]:
                network(together[0], timestep, text, return_dict=False)

    return run


def with_fast_linears(network: "WanTransformer3DModel", run: Callable[[], None]) -> Callable[[], None]:
    """With the one thing of the engine's that has nothing to do with Wan; on a GPU it is nothing."""

    def changed() -> None:
        with fast_linears(network, LinearAccount()):
            run()

    return changed


def engine(task: Task, network: "WanTransformer3DModel", mode: GuidanceMode, **text: bool) -> Callable[[], Tensor]:
    positive, negative = task.texts()
    conditioning = Conditioning(positive=positive, negative=negative)
    request = task.request(mode)
    experts = WanExperts({"single": network}, conditioning, task.size.shape, task.device, task.device, **text)

    def run() -> Tensor:
        noise = seeded_noise(task.size.shape, task.seed, task.device)
        *_, last = generate(request, experts, conditioning, noise, Guidance(request.plan(), request.guidance))
        return last.latents

    return run


def pipeline(task: Task, network: "WanTransformer3DModel") -> Callable[[], Tensor]:
    """Diffusers' pipeline, given the same noise levels: by itself its Euler would shift them twice."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

    sigmas = list(task.request("sequential").plan().sigmas[:-1])

    class GivenEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(sigmas=sigmas, device=device)

    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)  # only asked for its compression
    made = WanPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=GivenEuler(shift=1.0), transformer=network)
    made.set_progress_bar_config(disable=True)
    frames, height, width = task.size.latents
    positive, negative = (text.to(task.device, task.size.dtype) for text in task.texts())

    def run() -> Tensor:
        noise = seeded_noise(task.size.shape, task.seed, task.device)
        return made(
            prompt_embeds=positive, negative_prompt_embeds=negative, latents=noise, output_type="latent",
            height=8 * height, width=8 * width, num_frames=4 * (frames - 1) + 1,
            num_inference_steps=task.steps, guidance_scale=task.guidance_scale,
        ).frames  # fmt: skip

    return run
