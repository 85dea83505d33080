"""LoRAs on FastVideo Load Diffusers Model: the node tells what it used, and core's own LoRA nodes find the MODEL's weights."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sampling import normal, relative_error, run_ksampler, run_node
from test_diffusers_model import load
from tiny_wan import random_weights, save_lora
from torch import Tensor

from fastvideo_core import LoadError
from fastvideo_core.wan.loading import apply_lora, load_transformer

pytestmark = pytest.mark.usefixtures("direct")

QUERY, WIDE = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.1.ffn.0"


def pair(layer: str, inner: int = 64, outer: int = 64) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_A.weight": 0.3 * normal(40, 4, inner),
        f"{layer}.lora_B.weight": 0.3 * normal(41, outer, 4),
    }


ADAPTERS: dict[str, dict[str, Tensor]] = {
    "LoRA": pair(QUERY) | pair(WIDE, outer=128),
    "differences": {f"{QUERY}.diff": normal(42, 64, 64) / 8, f"{WIDE}.diff_b": normal(43, 128),
                    "diffusion_model.blocks.0.norm3.diff": normal(44, 64)},
    "DoRA": pair(QUERY) | {f"{QUERY}.dora_scale": 1 + normal(45, 64, 1).abs()},
    "LoKr": {f"{QUERY}.lokr_w1": normal(46, 8, 8) / 4, f"{QUERY}.lokr_w2": normal(47, 8, 8) / 4},
    "LoHa": {f"{QUERY}.hada_w{i}_{part}": normal(48 + i, *shape) / 2
             for i in (1, 2) for part, shape in (("a", (64, 4)), ("b", (4, 64)))},
}  # fmt: skip


def write(comfy: Any, name: str, weights: dict[str, Tensor]) -> str:
    save_file(weights, comfy.model_folder("loras") / f"{name}.safetensors")
    return f"{name}.safetensors"


def execute(comfy: Any, lora_name: str, strength: float = 1.0) -> Any:
    node = comfy.node_classes["FastVideoLoadDiffusersModel"]
    return node.execute(model_name="t2v_0.safetensors", dtype="as stored", lora_name=lora_name, lora_strength=strength)


def test_the_node_says_what_it_used_and_what_not(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    load_wan()
    layers = [pair(f"diffusion_model.blocks.{i}.self_attn.q") for i in range(40)]
    name = write(comfy, "deep", {key: value for layer in layers for key, value in layer.items()} | {"step": torch.tensor(3)})
    with caplog.at_level(logging.INFO):
        output = execute(comfy, name, 0.5)
    (text,) = output.ui.as_dict()["text"]
    assert "LoRA deep at strength 0.5: 4 of 81 tensors used, in 2 layers; 76 ignored, the network has no such layer: " in text
    assert "blocks.10.self_attn.q.lora_A.weight" in text and "and 74 more; 1 ignored, not a part of a LoRA: step" in text
    assert text in caplog.text
    report = run_node(comfy, output.args[0], steps=2)[1]
    assert text in report.notes and text in report.text()
    assert not any("LoRA" in note for note in run_node(comfy, load(comfy, "t2v_0.safetensors"), steps=2)[1].notes)


def test_without_a_lora_the_node_says_what_it_loaded(comfy: Any, load_wan: Any) -> None:
    load_wan()
    assert execute(comfy, "none").ui.as_dict()["text"] == ("t2v_0.safetensors: float32, no LoRA",)


def test_the_engine_logs_what_it_did_not_use(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    load_wan()
    transformer = load_transformer(comfy.model_folder("diffusion_models") / "t2v_0.safetensors")
    name = write(comfy, "half", pair(QUERY) | pair("diffusion_model.blocks.9.self_attn.q"))
    report = apply_lora(transformer, comfy.model_folder("loras") / name)
    assert report.used == 2 and report.line() in caplog.text and "2 ignored, the network has no such layer" in caplog.text


def test_everything_that_a_lora_may_change_acts_as_in_the_engine(comfy: Any, load_wan: Any) -> None:
    """Modulation too, which core's patches do not reach."""
    load_wan()
    weights = {}
    for i, (key, value) in enumerate(random_weights("t2v", 0).items()):
        layer, _, end = key.rpartition(".")
        part = {"bias": "diff_b", "modulation": "diff_m"}.get(end, "diff")
        if end in ("bias", "modulation") or value.ndim < 2:
            weights[f"diffusion_model.{layer}.{part}"] = 0.1 * normal(60 + i, *value.shape)
        else:
            weights |= pair(f"diffusion_model.{layer}", value[0].numel(), value.shape[0])
    name = write(comfy, "all", weights)
    transformer = load_transformer(comfy.model_folder("diffusion_models") / "t2v_0.safetensors")
    report = apply_lora(transformer, comfy.model_folder("loras") / name, 0.3)
    assert not report.ignored
    model = execute(comfy, name, 0.3).args[0]
    model.load(model.load_device, full_load=True)
    x, context = normal(1, 1, 16, 3, 8, 8), normal(2, 1, 512, 32)
    expected = transformer(x, torch.tensor([700.0]), context, return_dict=False)[0]
    assert relative_error(model.model.diffusion_model(x, torch.tensor([700.0]), context), expected) < 1e-5


def lora_loader(comfy: Any, model: Any, name: str) -> Any:
    import nodes

    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 0.8)[0]


def bypass_loader(comfy: Any, model: Any, name: str) -> Any:
    from comfy.sd import load_bypass_lora_for_models

    return load_bypass_lora_for_models(model, None, load_file(comfy.model_folder("loras") / name), 0.8, 0)[0]


@pytest.mark.parametrize(
    ("kind", "put"), [*((kind, lora_loader) for kind in ADAPTERS), ("LoRA", bypass_loader), ("differences", bypass_loader)]
)
def test_cores_lora_nodes_act_as_on_cores_network(
    comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture, kind: str, put: Callable[..., Any]
) -> None:
    native, name = load_wan(), write(comfy, f"adapter_{kind}", ADAPTERS[kind])
    caplog.clear()
    expected = run_ksampler(put(comfy, native, name), steps=2)
    ours = run_ksampler(put(comfy, load(comfy, "t2v_0.safetensors"), name), steps=2)
    assert relative_error(ours, expected) < 1e-5
    assert relative_error(run_ksampler(native, steps=2), expected) > 1e-3
    assert "not loaded" not in caplog.text.lower()


def test_cores_lora_nodes_go_over_the_nodes_own_lora(comfy: Any, load_wan: Any) -> None:
    own, more = save_lora(comfy.model_folder("loras")).name, write(comfy, "more", ADAPTERS["LoRA"])
    native = lora_loader(comfy, lora_loader(comfy, load_wan(), own), more)
    ours = lora_loader(comfy, execute(comfy, own, 0.8).args[0], more)
    assert relative_error(run_ksampler(ours, steps=2), run_ksampler(native, steps=2)) < 1e-5


@pytest.mark.parametrize("kind", ["DoRA", "LoKr", "LoHa"])
def test_other_adapters_are_refused_and_the_refusal_names_what_reads_them(comfy: Any, load_wan: Any, kind: str) -> None:
    load_wan()
    with pytest.raises(LoadError, match=rf"has parts of {kind}.*core's LoRA loader"):
        execute(comfy, write(comfy, "other", ADAPTERS[kind]))


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip", "flf2v", "ti2v"])
def test_weights_have_cores_names(comfy: Any, load_wan: Any, kind: str) -> None:
    native = load_wan(kind).model.diffusion_model.state_dict()
    ours = load(comfy, f"{kind}_0.safetensors").model.diffusion_model.state_dict()
    assert ours.keys() == native.keys()
    assert all(torch.equal(ours[name].float(), native[name].float()) for name in native)


def test_a_lora_told_by_its_header_to_be_rank_stabilised(comfy: Any, load_wan: Any) -> None:
    load_wan()
    told = {"lora_adapter_metadata": json.dumps({"lora_alpha": 6, "use_rslora": True})}
    save_file(pair(QUERY), comfy.model_folder("loras") / "stabilised.safetensors", told)
    thrice = {key: value * (3 if "B" in key else 1) for key, value in pair(QUERY).items()}
    plain = lora_loader(comfy, load_wan(), write(comfy, "thrice", thrice))
    ours = execute(comfy, "stabilised.safetensors", 0.8).args[0]
    assert relative_error(run_ksampler(ours, steps=2), run_ksampler(plain, steps=2)) < 1e-5
