"""FastVideo Phase Sampler: a Wan video in any number of phases."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, SolverName

from .checked import checked
from .inputs import SHOWN, guidance_inputs, latent_input, prompt_inputs, run_inputs, sigmas_input, state_inputs, video_outputs
from .native.marks import marks_of
from .native.phases import named
from .native.sample import sample
from .native.state import NONE, KeptState
from .requests import prompt_of, request_of, version_of_state
from .sockets import NOT_CONNECTED, SAMPLING, PhasesSocket

GUIDANCE = ("guidance_mode", "gate", "guidance_rescale")


class FastVideoPhaseSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoPhaseSampler",
            display_name="FastVideo Phase Sampler",
            category=SAMPLING,
            description="Samples a Wan video in any number of phases, each with its model and guidance scale, as one run: the "
            "solver goes on over them, and no model is loaded before its phase.",
            search_aliases=[
                "three phases", "triple ksampler", "moe ksampler", "wan 2.2 high low noise", "ksampler", "wan", "sampler",
                "lora per expert",
            ],
            inputs=[
                PhasesSocket.Input("phases", tooltip="From FastVideo Phase: all phases, the last one until 0."),
                *prompt_inputs(*SHOWN),
                latent_input(),
                *run_inputs(),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
                sigmas_input(),
                io.Int.Input(
                    "stop_after_phase", default=0, min=0, max=1000, optional=True, advanced=True,
                    tooltip="Ends the run after so many phases, and keeps it under save_state for another run to go on. 0: all "
                    "phases. The latent is then the video as the last step saw it.",
                ),
                *state_inputs(),
            ],
            outputs=video_outputs(),
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, phases: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        solver: SolverName, guidance_mode: GuidanceMode, gate: float, guidance_rescale: float, sigmas: Any = NOT_CONNECTED,
        stop_after_phase: int = 0, save_state: str = "", resume_state: str = NONE,
    ) -> io.NodeOutput:  # fmt: skip
        experts, settings = named(phases)
        request = request_of(
            phases=settings, seed=seed, steps=steps, shift=shift, solver=solver, guidance_mode=guidance_mode, gate=gate,
            guidance_rescale=guidance_rescale, sigmas=sigmas,
        )  # fmt: skip
        marks = marks_of(list(experts.values()), prompt_of(cls), ("phases",))
        kept = KeptState(save=save_state, resume=resume_state, stop_after_phase=stop_after_phase)
        return io.NodeOutput(*sample(experts, positive, negative, latent, request, kept=kept, marks=marks))

    fingerprint_inputs: Any = classmethod(version_of_state)


NODES = [FastVideoPhaseSampler]
