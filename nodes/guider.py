"""FastVideo Guider: guidance per expert and the switch between two, for core's SamplerCustomAdvanced."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, GuidanceSettings

from .checked import checked
from .native.guider import WanGuider
from .native.run import GuiderSettings
from .sockets import CATEGORY, NOT_CONNECTED, connected, guidance_inputs


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
                io.Conditioning.Input("negative", tooltip="What it must not show; only read where the guidance scale is not 1."),
                *guidance_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced. The run's figures appear in the server's log.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float, low_noise_model: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        low_noise_model = connected(low_noise_model)
        two_experts = low_noise_model is not None
        settings = GuiderSettings(
            guidance_scale=guidance_scale,
            low_noise_guidance_scale=low_noise_guidance_scale if two_experts else None,
            boundary=boundary if two_experts else None,
            guidance=GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale),
        )
        return io.NodeOutput(WanGuider(model, low_noise_model, positive, negative, settings))


NODES = [FastVideoGuider]
