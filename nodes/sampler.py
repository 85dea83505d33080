"""FastVideo Sampler: a Wan video, with one expert or two."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, GuidanceSettings, SamplingRequest, SolverName

from .checked import checked
from .native.part import SamplerPart
from .native.sample import sample
from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, connected, guidance_inputs, part_inputs


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
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed and settings give the same video.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps: 20 to 50; 4 to 8 for distilled models.",
                ),
                io.Float.Input(
                    "shift", default=5.0, min=0.01, max=100.0, step=0.1,
                    tooltip="Moves the noise levels towards noise, in the place of a ModelSamplingSD3 node. Wan 2.1: 1.3B 8, "
                    "14B 5, I2V 480P 3; Wan 2.2: T2V 12, others 5.",
                ),
                io.Combo.Input(
                    "solver", options=["unipc", "euler", "dpmpp_2m", "dmd"], default="unipc",
                    tooltip="unipc is what Wan's authors use. dmd is for few-step distilled checkpoints such as FastWan.",
                ),
                *guidance_inputs(),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Noise levels to use instead of those that steps and shift give.",
                ),
                *part_inputs(),
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
        low_noise_model: Any = NOT_CONNECTED, sigmas: Any = NOT_CONNECTED, **part: Any,
    ) -> io.NodeOutput:  # fmt: skip
        low_noise_model = connected(low_noise_model)
        sigmas = connected(sigmas)
        request = SamplingRequest(
            steps=steps if sigmas is None else len(sigmas) - 1,
            shift=shift,
            guidance_scale=guidance_scale,
            low_noise_guidance_scale=None if low_noise_model is None else low_noise_guidance_scale,
            boundary=None if low_noise_model is None else boundary,
            solver=solver,
            seed=seed,
            sigmas=None if sigmas is None else sigmas.tolist(),
            guidance=GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale),
        )
        return io.NodeOutput(*sample(model, low_noise_model, positive, negative, latent, request, SamplerPart(**part)))


NODES = [FastVideoSampler]
