"""What core does by the names of weights does the same on a MODEL of diffusers' network: merging, saving, hooks."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sampling import conditions_of, relative_error, run_ksampler
from test_diffusers_model import load
from tiny_wan import METADATA, save_lora

pytestmark = pytest.mark.usefixtures("direct")


def test_merged_models_are_those_of_cores_network(comfy: Any, load_wan: Any) -> None:
    import nodes

    def merged(first: Any, second: Any) -> torch.Tensor:
        return run_ksampler(nodes.NODE_CLASS_MAPPINGS["ModelMergeSimple"]().merge(first, second, 0.3)[0], steps=2)

    expected = merged(load_wan("t2v", 0), load_wan("t2v", 1))
    assert relative_error(merged(*(load(comfy, f"t2v_{seed}.safetensors") for seed in (0, 1))), expected) < 1e-5
    assert relative_error(run_ksampler(load_wan(), steps=2), expected) > 1e-3


def test_saved_weights_are_a_file_of_cores(comfy: Any, load_wan: Any) -> None:
    from comfy.sd import load_diffusion_model

    native = load_wan()
    weights = load(comfy, "t2v_0.safetensors").model_state_dict("diffusion_model.")
    path = comfy.model_folder("diffusion_models") / "saved.safetensors"
    save_file({name.removeprefix("diffusion_model."): value.contiguous() for name, value in weights.items()}, path, METADATA)
    assert torch.equal(run_ksampler(load_diffusion_model(str(path)), steps=2), run_ksampler(native, steps=2))


def test_a_hooked_lora_acts_as_on_cores_network(comfy: Any, load_wan: Any) -> None:
    from comfy.hooks import create_hook_lora, set_hooks_for_conditioning

    weights = load_file(save_lora(comfy.model_folder("loras")))

    def hooked(model: Any) -> torch.Tensor:
        positive, negative = conditions_of("t2v")
        positive = set_hooks_for_conditioning(positive, create_hook_lora(weights, 0.8, 0.0))
        return run_ksampler(model, steps=2, positive=positive, negative=negative)

    native, diffusers = load_wan(), load(comfy, "t2v_0.safetensors")
    expected = hooked(native)
    assert relative_error(hooked(diffusers), expected) < 1e-5
    assert relative_error(run_ksampler(native, steps=2), expected) > 1e-3
    assert relative_error(run_ksampler(diffusers, steps=2), run_ksampler(native, steps=2)) < 1e-5, "it is off again"
