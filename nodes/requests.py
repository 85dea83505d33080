"""From a node's widgets and connections to what is asked of the engine."""

from collections.abc import Collection
from typing import Any

from fastvideo_core import GuidanceMode, GuidanceSettings, SamplingRequest, SolverName

from .native.facts import wan_facts
from .native.state import NONE, state_version
from .sockets import NOT_CONNECTED, connected


def experts_of(model: Any, low_noise_model: Any) -> dict[str, Any]:
    """The MODELs of a node's two inputs, by the names that the engine has for them.

    Raises:
        RequestError: one of them is not Wan.
    """
    second = connected(low_noise_model)
    for socket, given in (("model", model), ("low_noise_model", second)):
        if given is not None:
            wan_facts(given, socket)
    return {"single": model} if second is None else {"high_noise": model, "low_noise": second}


def scales_of(
    experts: Collection[str], guidance_scale: float, low_noise_guidance_scale: float, boundary: float
) -> dict[str, Any]:
    """What the engine is told of one expert or two; widgets of a second one count where there is one."""
    two = len(experts) == 2
    return {
        "guidance_scale": guidance_scale,
        "low_noise_guidance_scale": low_noise_guidance_scale if two else None,
        "boundary": boundary if two else None,
    }


def request_of(
    *, seed: int, steps: int, shift: float, guidance_mode: GuidanceMode, gate: float = 1.0, guidance_rescale: float = 0.0,
    solver: SolverName = "unipc", sigmas: Any = NOT_CONNECTED, **phases: Any,
) -> SamplingRequest:  # fmt: skip
    """phases: `phases` of the request, or what `scales_of` gives. sigmas: where connected, they come before steps."""
    given = connected(sigmas)
    levels = None if given is None else given.tolist()
    return SamplingRequest(
        steps=steps if levels is None else len(levels) - 1,
        shift=shift,
        sigmas=levels,
        solver=solver,
        seed=seed,
        guidance=GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale),
        **phases,
    )


def prompt_of(cls: Any) -> Any:
    """The running prompt in API form, of a node that asks for it; None where the node is called by itself."""
    return getattr(getattr(cls, "hidden", None), "prompt", None)


def version_of_state(cls: type, resume_state: Any = NONE, **_: Any) -> int:
    """Of a sampler, as its `fingerprint_inputs`: a state that was saved anew is another input."""
    return state_version(resume_state)
