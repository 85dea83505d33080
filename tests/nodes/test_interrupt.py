"""A run that is stopped in the middle, by a person or by an error: nothing of it is left in the next one."""

from typing import Any

import pytest
import torch
from graphs import guider_prompt, phases_prompt, sampler_prompt

from tools.comfy_in_process import PromptFailed

pytestmark = pytest.mark.parametrize("node", ["sampler", "guider", "phases"])

STEPS = {"one expert": 3, "first of two": 1, "second of two": 3}  # where the run is stopped, of 4 steps

EVERY_STEP = "latent2rgb"  # without previews core leaves out progress that comes faster than it can be shown


class StoppedHereError(Exception):
    pass


def prompt_of(node: str, two: bool) -> tuple[dict[str, Any], str]:
    """The prompt, and the node that samples."""
    settings = {"gate": 0.5, "solver": "unipc"}
    if node == "phases":
        return phases_prompt(**settings), "5"
    return (sampler_prompt(low_noise=two, **settings), "5") if node == "sampler" else (guider_prompt(two, gate=0.5), "9")


@pytest.mark.parametrize("where", STEPS)
def test_interrupted_run_stops_at_once_and_leaves_nothing(prompts: Any, node: str, where: str) -> None:
    prompt, sampling = prompt_of(node, two=where != "one expert")
    prompts.reset()
    fresh = prompts.run(prompt, {"latent": (sampling, 0)}).captured["latent"]["samples"]

    def stop(kind: str, data: Any) -> None:
        state = data["nodes"].get(sampling, {}) if kind == "progress_state" else {}
        if state.get("state") == "running" and state["value"] == STEPS[where]:
            prompts.interrupt()

    run = prompts.run({**prompt, **other_seed(prompt)}, {"latent": (sampling, 0)}, on_event=stop, preview_method=EVERY_STEP)
    assert run.interrupted and "latent" not in run.captured
    assert run.progress(sampling)[-1] == (STEPS[where], 4)
    assert_released()
    again = prompts.run(prompt, {"latent": (sampling, 0)})
    assert not again.interrupted
    assert torch.equal(again.captured["latent"]["samples"], fresh)


@pytest.mark.parametrize("where", STEPS)
def test_error_in_a_callback_is_told_and_leaves_nothing(prompts: Any, node: str, where: str) -> None:
    prompt, sampling = prompt_of(node, two=where != "one expert")
    prompts.reset()
    fresh = prompts.run(prompt, {"latent": (sampling, 0)}).captured["latent"]["samples"]

    def fail(kind: str, data: Any) -> None:
        state = data["nodes"].get(sampling, {}) if kind == "progress_state" else {}
        if state.get("state") == "running" and state["value"] == STEPS[where]:
            raise StoppedHereError("at the preview")

    with pytest.raises(PromptFailed, match=r"StoppedHereError: at the preview"):
        prompts.run({**prompt, **other_seed(prompt)}, {"latent": (sampling, 0)}, on_event=fail, preview_method=EVERY_STEP)
    assert_released()
    again = prompts.run(prompt, {"latent": (sampling, 0)})
    assert torch.equal(again.captured["latent"]["samples"], fresh)


def other_seed(prompt: dict[str, Any]) -> dict[str, Any]:
    """The node that holds the seed, with another one, so that nothing comes from the cache but the models and the guider."""
    name, node = next((name, node) for name, node in prompt.items() if node["inputs"].keys() & {"seed", "noise_seed"})
    key = "seed" if "seed" in node["inputs"] else "noise_seed"
    return {name: {**node, "inputs": {**node["inputs"], key: 77}}}


def assert_released() -> None:
    """No network belongs to a run any more, and all of them can be unloaded."""
    from comfy import model_management

    assert model_management.current_loaded_models
    networks = [loaded.model.model for loaded in model_management.current_loaded_models]  # a CLIP of another test has no patcher
    assert all(getattr(network, "current_patcher", None) is None for network in networks)
    model_management.unload_all_models()
    assert not model_management.current_loaded_models
