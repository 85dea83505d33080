"""Phases and states in API prompts: what cannot be is refused with words, and the next prompt runs."""

from typing import Any

import pytest
import torch
from graphs import node, phases_prompt, with_inputs
from phase_runs import kept

from tools.comfy_in_process import PromptFailed, PromptRefused

Prompt = dict[str, Any]
CAPTURED = {"latent": ("5", 0), "report": ("5", 1)}


class TinyOtherPhases:
    """What another pack may give under the same name of a socket."""

    RETURN_TYPES = ("FASTVIDEO_PHASES",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"kind": (["list", "tuple", "none", "text"],)}}

    def make(self, kind: str) -> tuple[Any]:
        return ({"list": [1, 2], "tuple": (), "none": None, "text": "three phases"}[kind],)


@pytest.fixture(scope="module")
def host(tiny: Any) -> Any:
    import nodes

    nodes.NODE_CLASS_MAPPINGS["TinyOtherPhases"] = TinyOtherPhases
    return tiny


def others(kind: str) -> Prompt:
    return {**phases_prompt(phases=["10", 0]), "10": node("TinyOtherPhases", kind=kind)}


def phase(name: str, **inputs: Any) -> Prompt:
    return with_inputs(phases_prompt(), name, **inputs)


BAD: dict[str, tuple[Prompt, str]] = {
    "phases are a list": (others("list"), r"The phases input got \[1, 2\] and needs a connection"),
    "phases are a tuple": (others("tuple"), r"The phases input got \(\) and needs a connection"),
    "phases are nothing": (others("none"), "The phases input got None and needs a connection"),
    "phases are a text": (others("text"), "The phases input got 'three phases' and needs a connection"),
    "phases of a phase are another's": (
        {**phase("8", phases=["10", 0]), "10": node("TinyOtherPhases", kind="list")},
        r"The phases input got \[1, 2\]",
    ),
    "phases come as a value": (phases_prompt(phases="all"), "phases"),
    "until is no number": (phase("7", until=float("nan")), "The until input got nan"),
    "until is text": (phase("7", until="high"), "until"),
    "until is 1": (phase("7", until=1.0), "until"),
    "until is below 0": (phase("9", until=-0.1), "until"),
    "until rises": (phase("8", until=0.97), r"until is 0\.97 and the phase before works until 0\.95"),
    "guidance scale is infinite": (phase("8", guidance_scale=float("inf")), "guidance_scale"),
    "guidance scale is below 1": (phase("8", guidance_scale=0.5), "guidance_scale"),
    "the last phase ends early": (phase("9", until=0.5), r"The last phase works until noise level 0\.5, and none below"),
    "a phase of a model of another kind": (phase("9", model=["1", 0]) | {"2": node("TinyOtherModel", kind="flow rvs")} | {
        "9": node("FastVideoPhase", model=["2", 0], until=0.0, guidance_scale=1.0, phases=["8", 0])
    }, "WAN21_FlowRVS"),
    "a phase without a step": (phases_prompt(steps=1), r"Phase 2 of 3 .* has no step"),
    "stop without a name": (phases_prompt(stop_after_phase=1), "stop_after_phase is 1 and save_state is empty"),
    "stop is negative": (phases_prompt(stop_after_phase=-1), "stop_after_phase"),
    "a name with folders": (phases_prompt(save_state="../../x"), r"save_state is '\.\./\.\./x': use letters"),
    "a name with a null": (phases_prompt(save_state="a\x00b"), "save_state is 'a"),
    "a name that is too long": (phases_prompt(save_state="x" * 5000), "save_state is 'xxx"),
    "a name that is no text": (phases_prompt(save_state=[1]), "save_state"),
    "a state that is not there": (phases_prompt(resume_state="nothing.safetensors"), "resume_state"),
    "a state outside": (phases_prompt(resume_state="../diffusion_models/t2v_0.safetensors"), "resume_state"),
    "a state that is no text": (phases_prompt(resume_state={"a": 1}), "resume_state"),
    "phases in a circle": (phase("7", phases=["9", 0]), "ycl|Prompt outputs failed validation"),
    "a model that is not finite": (with_inputs(phases_prompt(), "1", unet_name="t2v_nan.safetensors"), "not finite"),
    "rescale and a gate": (phases_prompt(gate=0.5, guidance_rescale=0.5), "Set rescale to 0 or gate to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_with_words(host: Any, name: str) -> None:
    prompt, words = BAD[name]
    with pytest.raises((PromptRefused, PromptFailed), match=rf"(?s){words}") as told:
        host.run(prompt)
    if isinstance(told.value, PromptFailed):
        assert "fastvideo_core.errors." in str(told.value) or "ycl" in words


def test_the_next_prompt_runs_and_a_state_goes_on(host: Any) -> None:
    host.reset()
    whole = host.run(phases_prompt(), CAPTURED).captured
    assert [part.expert for part in whole["report"].phases] == ["high_noise", "high_noise", "low_noise"]
    kept(host, "prompt").unlink(missing_ok=True)
    early = host.run(phases_prompt(stop_after_phase=2, save_state="prompt"), CAPTURED).captured
    assert len(early["report"].step_seconds) == sum(part.steps for part in whole["report"].phases[:2])
    rest = host.run(phases_prompt(resume_state="prompt.safetensors"), CAPTURED).captured
    assert torch.equal(rest["latent"]["samples"], whole["latent"]["samples"])
    other = host.run(phases_prompt(resume_state="prompt.safetensors", stop_after_phase=0), CAPTURED).captured
    assert other["report"] is rest["report"], "from ComfyUI's cache, for nothing is another"
    host.run(phases_prompt(stop_after_phase=1, save_state="prompt"), CAPTURED)
    anew = host.run(phases_prompt(resume_state="prompt.safetensors"), CAPTURED).captured
    assert anew["report"].first_step == whole["report"].phases[0].steps, "the file is another, and was read"
    assert torch.equal(anew["latent"]["samples"], whole["latent"]["samples"])


def test_a_state_that_is_torn_or_of_another_run_is_refused(host: Any) -> None:
    for name, content in (("empty", b""), ("torn", b"\x10\x00\x00\x00\x00\x00\x00\x00{}")):
        kept(host, name).parent.mkdir(parents=True, exist_ok=True)
        kept(host, name).write_bytes(content)
        with pytest.raises(PromptFailed, match=rf"LoadError.*{name}\.safetensors is no state of a generation"):
            host.run(phases_prompt(resume_state=f"{name}.safetensors"))
    host.run(phases_prompt(stop_after_phase=1, save_state="other"), CAPTURED)
    for changes, words in (({"seed": 99}, "seed is 3"), ({"gate": 0.5}, "guidance gate"), ({"steps": 6}, "steps is 4")):
        with pytest.raises(PromptFailed, match=rf"RequestError.*The state is of another generation: .*{words}"):
            host.run(phases_prompt(resume_state="other.safetensors", **changes))
