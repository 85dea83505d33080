"""FastVideo Phase: one phase of a run, after those before it."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import RequestError

from .checked import checked
from .native.facts import check_experts, wan_facts
from .native.phases import ModelPhase, Phases
from .sockets import NOT_CONNECTED, SAMPLING, PhasesSocket, connected


class FastVideoPhase(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoPhase",
            display_name="FastVideo Phase",
            category=SAMPLING,
            description="One phase of a run: which model works, down to which noise level, and how strongly it is guided. Chain "
            "as many as the run has; the same model may come again.",
            search_aliases=[
                "three phases", "moe", "wan 2.2 high low noise", "triple ksampler", "lightning lora phases", "wan", "lora",
                "lightning",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Wan diffusion model of this phase: an expert of Wan 2.2, with a LoRA or without.",
                ),
                io.Float.Input(
                    "until", default=0.0, min=0.0, max=0.999, step=0.005, round=0.0001,
                    tooltip="Noise level down to which this phase works, 1 being pure noise. 0 in the last phase. Experts of Wan "
                    "2.2 change at 0.875 (T2V) or 0.9 (I2V).",
                ),
                io.Float.Input(
                    "guidance_scale", default=1.0, min=1.0, max=30.0, step=0.1,
                    tooltip="How strongly the video follows the positive prompt in this phase. 1 is off and halves the work, as "
                    "distillation LoRAs want it.",
                ),
                PhasesSocket.Input("phases", optional=True, tooltip="The phases before this one; nothing in the first."),
            ],
            outputs=[
                PhasesSocket.Output(
                    display_name="phases", tooltip="For the next FastVideo Phase, FastVideo Phase Sampler or FastVideo Guider.",
                )
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model: Any, until: float, guidance_scale: float, phases: Any = NOT_CONNECTED) -> io.NodeOutput:
        before: Phases = connected(phases) or Phases()
        facts = wan_facts(model)  # refuses what is not Wan
        if before:
            check_experts(wan_facts(before[0].model), facts, f"phase {len(before) + 1}")
        if before and until >= before[-1].until:
            raise RequestError(
                f"until is {until:g} and the phase before works until {before[-1].until:g}: each phase goes on below the one "
                "before. Set until lower, or that of the phase before higher."
            )
        return io.NodeOutput(Phases((*before, ModelPhase(model=model, until=until, guidance_scale=guidance_scale))))


NODES = [FastVideoPhase]
