"""LoRA strengths that change over the steps go on over the boundary of two experts."""

from typing import Any

import pytest
import torch
from sampling import conditions_of, core_node, relative_error, run_chain, run_node
from tiny_wan import save_lora

pytestmark = pytest.mark.usefixtures("direct")


def keyframed(host: Any, keyframes: int) -> dict[str, Any]:
    """Prompts with a LoRA whose strength falls from 1 to 0 over the first four fifths of a run."""
    hooks = core_node(
        host, "CreateHookLora", lora_name=save_lora(host.model_folder("loras")).name, strength_model=0.8, strength_clip=0.0
    )
    strengths = core_node(
        host, "CreateHookKeyframesInterpolated", strength_start=1.0, strength_end=0.0, interpolation="linear", start_percent=0.0,
        end_percent=0.8, keyframes_count=keyframes, print_keyframes=False,
    )  # fmt: skip
    hooks = core_node(host, "SetHookKeyframes", hooks=hooks, hook_kf=strengths)
    positive, negative = conditions_of("t2v")
    hooked = core_node(host, "ConditioningSetProperties", cond_NEW=positive, strength=1.0, set_cond_area="default", hooks=hooks)
    return {"positive": hooked, "negative": negative}


def test_strengths_of_a_hook_go_on_over_the_boundary_as_in_a_chain(comfy: Any, load_wan: Any) -> None:
    prompts, experts = keyframed(comfy, keyframes=3), (load_wan("t2v", 0), load_wan("t2v", 1))
    ours, report = run_node(comfy, experts[0], "t2v", experts[1], **prompts)
    assert relative_error(ours, run_chain(*experts, "t2v", report.phases[0].steps, **prompts)) < 1e-5
    assert relative_error(ours, run_node(comfy, experts[0], "t2v", experts[1])[0]) > 1e-4
    assert torch.equal(ours, run_node(comfy, experts[0], "t2v", experts[1], **prompts)[0])


@pytest.mark.parametrize("keyframes", [3, 20])
def test_strengths_of_a_hook_go_on_over_the_boundary_as_in_one_run(comfy: Any, load_wan: Any, keyframes: int) -> None:
    """One model as both experts; with more keyframes than steps, each step takes the next one, and the place in them counts."""
    prompts = keyframed(comfy, keyframes)
    two, _ = run_node(comfy, load_wan(), "t2v", load_wan(), low_noise_guidance_scale=4.0, **prompts)
    assert relative_error(two, run_node(comfy, load_wan(), **prompts)[0]) < 1e-6
