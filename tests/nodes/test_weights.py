"""A ratio table belongs to a checkpoint: the MODEL's weights are told by what they were before LoRAs."""

from typing import Any

import pytest
from caching import weights_of
from sampling import conditions_of, relative_error, run_ksampler
from tiny_wan import save_lora

pytestmark = pytest.mark.usefixtures("direct")


@pytest.mark.parametrize(
    "way", ["LoraLoaderModelOnly", "LoraLoaderBypassModelOnly", "FastVideoLoadDiffusersModel", "hook", "hook over a LoRA"]
)
def test_a_lora_does_not_change_the_hash(comfy: Any, load_wan: Any, way: str) -> None:
    """Neither when it is put on, nor while it is in the weights, nor afterwards."""
    model, lora = load_wan(), save_lora(comfy.model_folder("loras"))
    expected, seen = weights_of(comfy, model), []
    patched, prompts = with_lora(comfy, model, lora.name, way)
    patched = patched.clone()

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(weights_of(comfy, patched))
        return executor(*args, **kwargs)

    patched.add_wrapper("diffusion_model", look)
    assert weights_of(comfy, patched) == expected
    with_it = run_ksampler(patched, steps=2, **prompts)
    assert relative_error(with_it, run_ksampler(model, steps=2)) > 1e-3, "the LoRA must matter"
    assert seen
    assert {*seen, weights_of(comfy, patched), weights_of(comfy, model)} == {expected}


def with_lora(host: Any, model: Any, lora: str, way: str) -> tuple[Any, dict[str, Any]]:
    """The MODEL with a LoRA, and the prompts where it is a hook of one."""
    from comfy.hooks import create_hook_lora
    from comfy.utils import load_torch_file
    from comfy_extras.nodes_lora_debug import LoraLoaderBypassModelOnly

    import nodes

    prompts = {}
    if way.startswith("hook"):
        weights = load_torch_file(str(host.model_folder("loras") / lora))
        positive, _ = conditions_of("t2v")
        prompts = {"positive": [[rows, {**entry, "hooks": create_hook_lora(weights, 0.9, 0.0)}] for rows, entry in positive]}
    if way == "FastVideoLoadDiffusersModel":
        model = host.node_classes[way].execute("t2v_0.safetensors", "as stored", lora, 0.8).args[0]
    elif way != "hook":
        loader = LoraLoaderBypassModelOnly() if "Bypass" in way else nodes.LoraLoaderModelOnly()
        model = loader.load_lora_model_only(model, lora, 0.8)[0]
    return model, prompts
