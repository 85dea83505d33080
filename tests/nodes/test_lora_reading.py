"""What ComfyUI's own loader takes from a LoRA file, whatever a trainer wrote into it, the engine's takes too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sampling import relative_error
from tiny_wan import random_weights
from torch import Tensor

from fastvideo_core.wan.loading import apply_lora, load_transformer, original_keys

PREFIXES = {"ComfyUI": "diffusion_model.{}", "kohya": "lora_unet_{}", "VideoX-Fun": "lora_unet__{}"}
ENDS = {  # down and up, as core knows them
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "peft, bare": (".lora_A", ".lora_B"),
    "peft, named": (".lora_A.default.weight", ".lora_B.default.weight"),
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": ("_lora.down.weight", "_lora.up.weight"),
    "diffusers 2": (".lora.down.weight", ".lora.up.weight"),
    "transformers": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}


def lora_file(weights: dict[str, Tensor], prefix: str, ends: tuple[str, str]) -> dict[str, Tensor]:
    """Pairs for every matrix, with alphas of changing dtypes, differences for every vector and what trainers leave there."""
    generator = torch.Generator().manual_seed(7)
    file: dict[str, Tensor] = {"step": torch.tensor(1000), "loss": torch.tensor(0.5, dtype=torch.float64)}
    alphas = [torch.tensor(2), torch.tensor(3.0, dtype=torch.float64), torch.tensor(4.0, dtype=torch.bfloat16), None]
    for i, (key, weight) in enumerate(weights.items()):
        layer, _, end = key.rpartition(".")
        name = PREFIXES[prefix].format(layer if prefix == "ComfyUI" else layer.replace(".", "_"))
        if end == "bias":
            file[f"{name}.diff_b"] = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        elif end == "weight" and weight.ndim < 2:
            file[f"{name}.diff"] = torch.randn(weight.shape, generator=generator)
        elif end == "weight" and i % 5:
            file[name + ends[0]] = torch.randn(4, math.prod(weight.shape[1:]), generator=generator) / 8
            file[name + ends[1]] = torch.randn(weight.shape[0], 4, generator=generator).to(torch.float64)
            file |= {f"{name}.alpha": alpha.clone() for alpha in (alphas[i % 4],) if alpha is not None}
        elif end == "weight":
            file[f"{name}.alpha"] = torch.tensor(4.0)  # its matrices were taken out
    return file


def core_weights(file: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The weights with the LoRA as core adds it."""
    import comfy.lora
    import comfy.lora_convert

    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(file), names, log_missing=False)
    clone = model.clone()
    clone.add_patches(patches, 0.7)
    changed = {}
    for name, ((weight, _), *rest) in clone.get_key_patches("diffusion_model.").items():
        changed[name.removeprefix("diffusion_model.")] = comfy.lora.calculate_weight(rest, weight.float().clone(), name)
    return changed


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip"])
@pytest.mark.parametrize(("prefix", "ends"), [*(("ComfyUI", ends) for ends in ENDS), ("kohya", "kohya"), ("VideoX-Fun", "kohya")])
def test_the_engine_adds_what_core_adds(comfy: Any, load_wan: Any, kind: str, prefix: str, ends: str, tmp_path: Path) -> None:
    model = load_wan(kind)
    file = lora_file(random_weights(kind, 0), prefix, ENDS[ends])
    save_file(file, tmp_path / "lora.safetensors")
    transformer = load_transformer(comfy.model_folder("diffusion_models") / f"{kind}_0.safetensors")
    report = apply_lora(transformer, tmp_path / "lora.safetensors", 0.7)
    ours, theirs = effective(transformer), core_weights(file, model)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[name], theirs[name]) for name in theirs) < 1e-6
    assert {"step", "loss"} <= report.ignored.keys()
    assert all("alpha" in key or key in ("step", "loss") for key in report.ignored)


def effective(transformer: Any) -> dict[str, Tensor]:
    """By original names: what the network computes with."""
    modules = dict(transformer.named_modules())
    names = {name.replace("parametrizations.weight.original", "weight") for name, _ in transformer.named_parameters()}
    return original_keys({name: getattr(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in names})
