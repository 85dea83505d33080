"""FastVideo Load Diffusers Model where memory is short: what core leaves on the CPU comes to the device when it is used.

There is no second device here, so the one of the two is `meta`: a tensor that is left behind meets one of the other device.
"""

from typing import Any

import pytest
import torch
from sampling import normal
from test_diffusers_model import load
from tiny_wan import TEXT_DIM, save_lora

pytestmark = pytest.mark.usefixtures("direct")

META = torch.device("meta")
PLACES = pytest.mark.parametrize(("kind", "with_lora"), [("t2v", False), ("t2v", True), ("flf2v", False), ("ti2v", False)])


def loaded(comfy: Any, load_wan: Any, kind: str, with_lora: bool) -> Any:
    load_wan(kind)
    lora = {"lora_name": save_lora(comfy.model_folder("loras")).name} if with_lora else {}
    return load(comfy, f"{kind}_0.safetensors", **lora)


def tensors(model: Any) -> dict[str, tuple[Any, torch.Tensor]]:
    """Every parameter and buffer that the network computes with, and the module that owns it."""
    network = model.model.diffusion_model
    network.tables.give()
    modules = {**dict(network.named_modules()), **dict(network.transformer.named_modules(prefix="transformer"))}
    return {
        f"{name}.{key}": (module, tensor)
        for name, module in modules.items()
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }


def inputs(kind: str, device: torch.device) -> dict[str, Any]:
    channels = {"t2v": 16, "flf2v": 36, "ti2v": 48}[kind]
    timestep = torch.full((1, 3), 700.0) if kind == "ti2v" else torch.tensor([700.0])
    given = {"x": normal(1, 1, channels, 3, 8, 8), "timestep": timestep, "context": normal(2, 1, 512, TEXT_DIM)}
    if kind == "flf2v":
        given["clip_fea"] = normal(3, 1, 514, 1280)
    return {name: tensor.to(device) for name, tensor in given.items()}


@PLACES
def test_a_partly_loaded_network_computes_on_the_device(comfy: Any, load_wan: Any, kind: str, with_lora: bool) -> None:
    model = loaded(comfy, load_wan, kind, with_lora)
    model.load(META, lowvram_model_memory=model.model_size() // 2)
    places = tensors(model).items()
    left = {name: module for name, (module, tensor) in places if tensor.device != META and "rope" not in name}
    assert left and len(left) < len(places)
    assert [name for name, module in left.items() if not getattr(module, "comfy_cast_weights", False)] == []
    assert model.model.diffusion_model(**inputs(kind, META)).device == META


@PLACES
def test_what_was_unloaded_in_part_is_of_a_kind_that_comes_back(comfy: Any, load_wan: Any, kind: str, with_lora: bool) -> None:
    model = loaded(comfy, load_wan, kind, with_lora)
    model.load(torch.device("cpu"), full_load=True)
    model.partially_unload(META, model.model_size() // 2)
    away = {name: module for name, (module, tensor) in tensors(model).items() if tensor.device == META}
    assert away and all(module.comfy_cast_weights for module in away.values())
