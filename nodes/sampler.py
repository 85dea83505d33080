"""FastVideo Sampler: a Wan video, with one expert or two."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import GuidanceMode, RequestError, SolverName

from .checked import checked
from .inputs import (
    SHOWN,
    guidance_inputs,
    latent_input,
    model_inputs,
    part_inputs,
    prompt_inputs,
    run_inputs,
    settings_input,
    sigmas_input,
    state_inputs,
    video_outputs,
)
from .native.marks import marks_of
from .native.part import SamplerPart
from .native.preset import AUTHORS, GIVEN, preset_of
from .native.sample import sample
from .native.state import NONE, KeptState
from .requests import experts_of, prompt_of, request_of, scales_of, version_of_state
from .sockets import NOT_CONNECTED, SAMPLING, connected


class FastVideoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoSampler",
            display_name="FastVideo Sampler",
            category=SAMPLING,
            description="Samples a Wan video, with one expert or two, and reports what ran.",
            search_aliases=[
                "ksampler", "wan sampler", "moe ksampler", "wan 2.2 high low noise", "wan", "sampler", "wan video", "t2v",
                "i2v", "ti2v", "text to video", "image to video", "video generation", "unipc",
            ],
            inputs=[
                *model_inputs(),
                *prompt_inputs(*SHOWN),
                latent_input(),
                *run_inputs(),
                *guidance_inputs(),
                sigmas_input(),
                *part_inputs(),
                *state_inputs(),
                settings_input(),
            ],
            outputs=video_outputs(),
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        solver: SolverName, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float,
        low_noise_model: Any = NOT_CONNECTED, sigmas: Any = NOT_CONNECTED, save_state: str = "", resume_state: str = NONE,
        settings: str = GIVEN, **part: Any,
    ) -> io.NodeOutput:  # fmt: skip
        experts = experts_of(model, low_noise_model)
        marks = marks_of(list(experts.values()), prompt_of(cls), ("model", "low_noise_model"))
        asked: dict[str, Any] = {
            "steps": steps, "shift": shift, "solver": solver, "sigmas": sigmas, "guidance_scale": guidance_scale,
            "low_noise_guidance_scale": low_noise_guidance_scale, "boundary": boundary,
        }  # fmt: skip
        notes: tuple[str, ...] = ()
        if settings == AUTHORS:
            _check_no_sigmas(sigmas)
            preset = preset_of(list(experts.values()), marks, latent)
            asked, notes = {**asked, **preset.values}, (preset.note,)
        scales = scales_of(experts, *(asked.pop(name) for name in ("guidance_scale", "low_noise_guidance_scale", "boundary")))
        request = request_of(
            seed=seed, guidance_mode=guidance_mode, gate=gate, guidance_rescale=guidance_rescale, **asked, **scales
        )
        kept = KeptState(save=save_state, resume=resume_state)
        return io.NodeOutput(*sample(experts, positive, negative, latent, request, SamplerPart(**part), kept, marks, notes))

    fingerprint_inputs: Any = classmethod(version_of_state)


def _check_no_sigmas(sigmas: Any) -> None:
    if connected(sigmas) is not None:
        raise RequestError(f"sigmas is connected and settings is {AUTHORS!r}: disconnect it, or set settings to {GIVEN!r}.")


NODES = [FastVideoSampler]
