"""Guidance per phase, the gate and two experts as a ComfyUI guider, around core's own `CFGGuider`.

The high-noise expert is the guider itself; the low-noise expert is a second one whose run is opened around it, so that the
wrappers of both MODELs see a whole run, and whose weights are loaded when the boundary is passed.
"""

from typing import Any

import comfy.patcher_extension
import comfy.samplers
from comfy_api.latest import io
from comfy.patcher_extension import WrappersMP

from fastvideo_core import GuidanceMode, GuidanceSettings, RequestError

from .native_run import GuiderSettings, LowNoiseExpert, NativeRun
from .sockets import CATEGORY, guidance_inputs
from .wan_model import check_conditioning, check_experts, wan_facts


class WanGuider(comfy.samplers.CFGGuider):
    """A core GUIDER. `run` is the last generation, for whoever reports it."""

    def __init__(
        self, model: Any, low_noise_model: Any | None, positive: Any, negative: Any, settings: GuiderSettings
    ) -> None:
        super().__init__(model)
        self.facts = wan_facts(model)
        check_conditioning(positive, self.facts)
        if low_noise_model is not None:
            check_experts(self.facts, wan_facts(low_noise_model, "low_noise_model"))
        elif settings.boundary is not None:
            raise RequestError("A boundary without a low-noise model: connect low_noise_model.")
        self.settings = settings
        self.low_noise = None if low_noise_model is None else LowNoiseExpert(low_noise_model)
        self.run: NativeRun | None = None
        self.set_conds(positive, negative)
        self.set_cfg(settings.guidance_scale)
        if self.low_noise is not None:
            self.low_noise.set_conds(positive, negative)

    def sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        self.run = NativeRun(self, self.low_noise, self.settings, sigmas)
        if self.low_noise is None:
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        return self.low_noise.sample_around(super().sample, noise, latent_image, sampler, sigmas, *args, **kwargs)

    def outer_sample(self, *args: Any, **kwargs: Any) -> Any:
        assert self.run is not None
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.APPLY_MODEL, "fastvideo_calls", self.run.count_call, self.model_options, is_model_options=True
        )
        return super().outer_sample(*args, **kwargs)

    def inner_sample(self, noise: Any, latent_image: Any, device: Any, sampler: Any, sigmas: Any, denoise_mask: Any,
                     callback: Any, disable_pbar: bool, seed: int, **kwargs: Any) -> Any:  # fmt: skip
        if self.low_noise is not None:
            self.low_noise.remember(noise, latent_image, device, sigmas, denoise_mask, seed, **kwargs)
        return super().inner_sample(
            noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
        )

    def predict_noise(self, x: Any, timestep: Any, model_options: dict[str, Any] = {}, seed: Any = None) -> Any:  # noqa: B006
        assert self.run is not None
        return self.run.denoised(x, timestep, model_options)


class FastVideoGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoGuider",
            display_name="FastVideo Guider",
            category=CATEGORY,
            description="Guidance per expert, the gate and the switch between two experts, for SamplerCustomAdvanced with any "
            "sampler and sigmas.",
            search_aliases=["cfg guider", "moe guider", "wan 2.2 high low noise", "adaptive guidance"],
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; the high-noise expert where there are two."),
                io.Model.Input("low_noise_model", optional=True, tooltip="Low-noise expert of Wan 2.2 T2V/I2V A14B."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input(
                    "negative", tooltip="What it must not show; only read where the guidance scale is not 1."
                ),
                *guidance_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced. The run's figures appear in the server's log.")],
        )

    @classmethod
    def execute(
        cls, model: Any, positive: Any, negative: Any, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float, low_noise_model: Any | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        settings = GuiderSettings(
            guidance_scale=guidance_scale,
            low_noise_guidance_scale=low_noise_guidance_scale,
            boundary=None if low_noise_model is None else boundary,
            guidance=GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale),
        )
        return io.NodeOutput(WanGuider(model, low_noise_model, positive, negative, settings))


NODES = [FastVideoGuider]
