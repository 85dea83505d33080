"""FastVideo Sampler: a Wan video, with one expert or two."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, SolverName

from .checked import checked
from .native.part import SamplerPart
from .native.sample import sample
from .native.state import NONE, KeptState, state_version
from .requests import experts_of, request_of, scales_of
from .sockets import (
    CATEGORY,
    NOT_CONNECTED,
    RunReportSocket,
    guidance_inputs,
    part_inputs,
    run_inputs,
    sigmas_input,
    state_inputs,
)


class FastVideoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoSampler",
            display_name="FastVideo Sampler",
            category=CATEGORY,
            description="Samples a Wan video, with one expert or two, and reports what ran.",
            search_aliases=["ksampler", "wan sampler", "moe ksampler", "wan 2.2 high low noise"],
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; the high-noise expert where there are two."),
                io.Model.Input("low_noise_model", optional=True, tooltip="Low-noise expert of Wan 2.2 T2V/I2V A14B."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show; only read where the guidance scale is not 1."),
                io.Latent.Input("latent", tooltip="Size of the video, and for TI2V 5B the given first frame with its mask."),
                *run_inputs(),
                *guidance_inputs(),
                sigmas_input(),
                *part_inputs(),
                *state_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The video's latents, for VAE Decode."),
                RunReportSocket.Output(display_name="report", tooltip="What ran, for FastVideo Run Report."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        solver: SolverName, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float,
        low_noise_model: Any = NOT_CONNECTED, sigmas: Any = NOT_CONNECTED, save_state: str = "", resume_state: str = NONE,
        **part: Any,
    ) -> io.NodeOutput:  # fmt: skip
        experts = experts_of(model, low_noise_model)
        request = request_of(
            seed=seed, steps=steps, shift=shift, solver=solver, guidance_mode=guidance_mode, gate=gate,
            guidance_rescale=guidance_rescale, sigmas=sigmas,
            **scales_of(experts, guidance_scale, low_noise_guidance_scale, boundary),
        )  # fmt: skip
        kept = KeptState(save=save_state, resume=resume_state)
        return io.NodeOutput(*sample(experts, positive, negative, latent, request, SamplerPart(**part), kept))

    @classmethod
    def fingerprint_inputs(cls, resume_state: Any = NONE, **_: Any) -> Any:
        """A state that was saved anew is another input."""
        return state_version(resume_state)


NODES = [FastVideoSampler]
