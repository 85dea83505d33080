"""FastVideo Guider: guidance per phase and the switch between experts, for core's SamplerCustomAdvanced."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, GuidanceSettings, RequestError, by_boundary

from .checked import checked
from .inputs import SHOWN, guidance_inputs, model_inputs, prompt_inputs
from .native.guider import WanGuider
from .native.marks import marks_of
from .native.phases import named
from .native.plan import GuiderSettings
from .requests import experts_of, prompt_of, scales_of
from .sockets import NOT_CONNECTED, SAMPLING, PhasesSocket, connected


class FastVideoGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoGuider",
            display_name="FastVideo Guider",
            category=SAMPLING,
            description="Guidance per expert, the gate and the switch between two experts, for SamplerCustomAdvanced with any "
            "sampler and sigmas.",
            search_aliases=["cfg guider", "moe guider", "wan 2.2 high low noise", "adaptive guidance", "wan", "guider", "cfg"],
            inputs=[
                *model_inputs(optional=True),
                *prompt_inputs(*SHOWN),
                *guidance_inputs(),
                PhasesSocket.Input(
                    "phases", optional=True,
                    tooltip="From FastVideo Phase, in the place of both models, their guidance scales and the boundary.",
                ),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced. The run's figures appear in the server's log.")],
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, positive: Any, negative: Any, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float, model: Any = NOT_CONNECTED,
        low_noise_model: Any = NOT_CONNECTED, phases: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        _check_connections(model, low_noise_model, phases)
        if connected(phases) is None:
            experts = experts_of(model, low_noise_model)
            settings = by_boundary(**scales_of(experts, guidance_scale, low_noise_guidance_scale, boundary))
        else:
            experts, settings = named(phases)
        guidance = GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale)
        models = list(experts.values())
        recipes = marks_of(models, prompt_of(cls), ("model", "low_noise_model", "phases")).of_run(models)
        given = GuiderSettings(phases=settings, guidance=guidance)
        return io.NodeOutput(WanGuider(experts, positive, negative, given, recipes))


def _check_connections(model: Any, low_noise_model: Any, phases: Any) -> None:
    models = [name for name, given in (("model", model), ("low_noise_model", low_noise_model)) if connected(given) is not None]
    if connected(phases) is not None and models:
        raise RequestError(f"phases and {' and '.join(models)} are connected: phases bring their models. Disconnect one of them.")
    if connected(phases) is None and "model" not in models:
        raise RequestError("The model input is missing: connect a Wan model to it, or FastVideo Phase to phases.")


NODES = [FastVideoGuider]
