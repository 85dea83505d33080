"""FastVideo Load Diffusers Model: diffusers' network as a MODEL, against core's own network on the same weights."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sampling import Calls, conditions_of, latent_of, normal, relative_error, run_chain, run_ksampler, run_node
from test_composition import PATCHES, context_windows, lora
from tiny_wan import save_lora

from fastvideo_core import ConditioningError, LoadError, RequestError
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

KINDS = ["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"]


def load(host: Any, name: str, dtype: str = "as stored", lora_name: str = "none", lora_strength: float = 1.0) -> Any:
    node = host.node_classes["FastVideoLoadDiffusersModel"]
    return node.execute(model_name=name, dtype=dtype, lora_name=lora_name, lora_strength=lora_strength).args[0]


def options(host: Any, name: str) -> list[str]:
    """What the node offers for that input now."""
    schema = host.node_classes["FastVideoLoadDiffusersModel"].define_schema()
    return next(list(given.options) for given in schema.inputs if given.id == name)


@pytest.fixture
def folder_model(comfy: Any, load_wan: Any) -> str:
    """A diffusers repository under models/diffusers whose transformer has the weights of ("t2v", 0)."""
    load_wan("t2v")
    repository = comfy.model_folder("diffusers") / "tiny-wan"
    if not repository.exists():
        load_transformer(comfy.model_folder("diffusion_models") / "t2v_0.safetensors").save_pretrained(repository / "transformer")
        (repository / "vae").mkdir()
        (repository / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
        (repository / "broken").mkdir()
        (repository / "broken" / "config.json").write_text("[not json")
    return "tiny-wan/transformer"


@pytest.mark.parametrize("kind", KINDS)
def test_ksampler_gives_the_same_as_with_core_network(comfy: Any, load_wan: Any, kind: str) -> None:
    """ti2v: timesteps per frame become timesteps per token; flf2v: two images' tokens."""
    native = load_wan(kind)
    diffusers = load(comfy, f"{kind}_0.safetensors")
    assert relative_error(run_ksampler(diffusers, kind, steps=4), run_ksampler(native, kind, steps=4)) < 1e-5


@pytest.mark.parametrize("kind", ["t2v", "flf2v", "ti2v"])
def test_sampler_gives_the_same_as_with_core_network(comfy: Any, load_wan: Any, kind: str) -> None:
    native = load_wan(kind)
    ours, report = run_node(comfy, load(comfy, f"{kind}_0.safetensors"), kind, solver="unipc", steps=4)
    assert relative_error(ours, run_node(comfy, native, kind, solver="unipc", steps=4)[0]) < 1e-5
    assert report.phases[0].calls == {"2": 4}


def test_two_experts(comfy: Any, load_wan: Any) -> None:
    native = [load_wan("t2v", seed) for seed in (0, 1)]
    high, low = (load(comfy, f"t2v_{seed}.safetensors") for seed in (0, 1))
    ours, report = run_node(comfy, high, "t2v", low)
    assert relative_error(ours, run_chain(*native, "t2v", report.phases[0].steps)) < 1e-5


def test_folder_gives_the_same_as_the_file(comfy: Any, folder_model: str) -> None:
    folder, file = load(comfy, folder_model), load(comfy, "t2v_0.safetensors")
    assert torch.equal(run_ksampler(folder, steps=2), run_ksampler(file, steps=2))


def test_batch_of_two_first_and_last_frames(comfy: Any, load_wan: Any) -> None:
    native, kind = load_wan("flf2v"), "flf2v"
    latent = {"samples": torch.zeros(2, 16, 3, 8, 8)}
    diffusers = load(comfy, "flf2v_0.safetensors")
    assert (
        relative_error(run_ksampler(diffusers, kind, latent=latent, steps=2), run_ksampler(native, kind, latent=latent, steps=2))
        < 1e-5
    )


def test_odd_sizes_are_padded_as_core_does(comfy: Any, load_wan: Any) -> None:
    native, latent = load_wan(), latent_of("t2v", side=7)
    diffusers = load(comfy, "t2v_0.safetensors")
    assert relative_error(run_ksampler(diffusers, latent=latent, steps=2), run_ksampler(native, latent=latent, steps=2)) < 1e-5


def test_list_shows_transformer_folders_and_files_only(comfy: Any, folder_model: str) -> None:
    offered = options(comfy, "model_name")
    assert [name for name in offered if name.startswith("tiny-wan")] == [folder_model]
    assert "t2v_0.safetensors" in offered


@pytest.mark.parametrize(
    "name", ["block replace", "SkipLayerGuidanceDiT", "EasyCache", "context windows", "guidance scale override"]
)
def test_patches_act_as_on_core_network(comfy: Any, load_wan: Any, name: str) -> None:
    patch = {**PATCHES, "context windows": context_windows}[name]
    native, diffusers = patch(comfy, load_wan()), patch(comfy, load(comfy, "t2v_0.safetensors"))
    positive, negative = conditions_of("t2v", frames=7)
    inputs = {"positive": positive, "negative": negative, "latent": latent_of("t2v", frames=7), "steps": 4}
    expected = run_ksampler(native, **inputs)
    assert relative_error(run_ksampler(diffusers, **inputs), expected) < 1e-5
    assert relative_error(run_ksampler(load_wan(), **inputs), expected) > 1e-5


def test_wrappers_run_as_often_as_on_core_network(comfy: Any, load_wan: Any) -> None:
    native, ours = Calls(), Calls()
    run_ksampler(native.on(load_wan()), steps=3)
    run_ksampler(ours.on(load(comfy, "t2v_0.safetensors")), steps=3)
    assert ours.counts == native.counts


@pytest.mark.parametrize("name", ["attention override", "attention output"])
def test_patches_that_it_does_not_read_are_refused(comfy: Any, load_wan: Any, name: str) -> None:
    load_wan()
    with pytest.raises(
        RequestError, match=r"does not read (optimized_attention_override|attn1_patch).*core's Load Diffusion Model"
    ):
        run_ksampler(PATCHES[name](comfy, load(comfy, "t2v_0.safetensors")), steps=1)


@pytest.mark.parametrize(("kind", "given"), [("i2v_clip", 0), ("flf2v", 257), ("i2v", 257)])
def test_image_tokens_that_do_not_fit_are_refused_under_ksampler_too(comfy: Any, load_wan: Any, kind: str, given: int) -> None:
    from comfy.clip_vision import Output

    load_wan(kind)
    conditions = conditions_of(kind)
    for ((_, entry),) in conditions:
        entry.pop("clip_vision_output", None)
        if given:
            entry["clip_vision_output"] = Output()
            entry["clip_vision_output"].penultimate_hidden_states = normal(22, 1, given, 1280)
    with pytest.raises(ConditioningError, match=rf"reads \d+ CLIP image tokens and got {given}"):
        run_ksampler(load(comfy, f"{kind}_0.safetensors"), kind, positive=conditions[0], negative=conditions[1], steps=1)


def test_long_prompt_beside_an_image_is_refused(comfy: Any, load_wan: Any) -> None:
    """Diffusers takes everything before the last 512 rows for image tokens."""

    load_wan("i2v_clip")
    conditions = conditions_of("i2v_clip")
    for conditioning in conditions:
        conditioning[0][0] = normal(50, 1, 600, 32)
    with pytest.raises(ConditioningError, match=r"The prompt has 600 rows.*reads 512: encode it with FastVideo Text Encode"):
        run_ksampler(load(comfy, "i2v_clip_0.safetensors"), "i2v_clip", positive=conditions[0], negative=conditions[1], steps=1)


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
def test_weights_that_stay_on_the_cpu_change_nothing(comfy: Any, load_wan: Any, with_lora: bool) -> None:
    """What the memory manager does when memory is short: most layers are cast when they are used."""
    load_wan()
    lora = {"lora_name": save_lora(comfy.model_folder("loras")).name, "lora_strength": 0.7} if with_lora else {}
    model = load(comfy, "t2v_0.safetensors", **lora)
    expected = run_ksampler(model, steps=2)
    model.partially_unload(model.offload_device, model.model_size())
    model.partially_load(model.load_device, extra_memory=model.model_size() // 4)
    streamed = [m for m in model.model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert streamed and 0 < model.loaded_size() < model.model_size()
    whole = load(comfy, "t2v_0.safetensors", **lora)
    whole.load(whole.load_device, full_load=True)
    assert torch.equal(call_network(model), call_network(whole))
    assert torch.equal(run_ksampler(model, steps=2), expected)


def call_network(model: Any) -> torch.Tensor:
    """One call of the network as it is placed now, without the sampler, which would load it whole."""
    model.pre_run()
    return model.model.apply_model(normal(51, 1, 16, 3, 8, 8), torch.tensor([0.7]), c_crossattn=normal(52, 1, 512, 32))


def test_lora_equals_core_lora_loader(comfy: Any, load_wan: Any) -> None:
    native = lora(comfy, load_wan())
    diffusers = load(comfy, "t2v_0.safetensors", lora_name="tiny.safetensors", lora_strength=0.8)
    assert relative_error(run_ksampler(diffusers, steps=3), run_ksampler(native, steps=3)) < 1e-5
    assert relative_error(run_ksampler(load_wan(), steps=3), run_ksampler(native, steps=3)) > 1e-3


def test_lora_of_another_network_is_refused(comfy: Any, load_wan: Any) -> None:

    load_wan()
    weights = {
        "lora_unet_down_blocks_0.lora_down.weight": torch.zeros(4, 8),
        "lora_unet_down_blocks_0.lora_up.weight": torch.zeros(8, 4),
    }
    save_file(weights, comfy.model_folder("loras") / "other.safetensors")
    with pytest.raises(LoadError, match=r"other\.safetensors"):
        load(comfy, "t2v_0.safetensors", lora_name="other.safetensors")


def test_dtype_is_what_it_computes_in(comfy: Any, load_wan: Any) -> None:
    native = load_wan()
    ours, report = run_node(comfy, load(comfy, "t2v_0.safetensors", dtype="bfloat16"), steps=2)
    assert report.dtype == "bfloat16"
    assert 1e-5 < relative_error(ours, run_node(comfy, native, steps=2)[0]) < 2e-2


def test_memory_estimate_is_core_estimate(comfy: Any, load_wan: Any) -> None:
    native, diffusers = load_wan().model, load(comfy, "t2v_0.safetensors").model
    assert diffusers.memory_required([2, 16, 21, 60, 104]) == native.memory_required([2, 16, 21, 60, 104])


@pytest.mark.parametrize("name", ["../../secret.safetensors", "nothing.safetensors", "/etc/passwd"])
def test_only_files_of_the_model_folders_are_read(comfy: Any, name: str) -> None:
    module = sys.modules[comfy.node_classes["FastVideoLoadDiffusersModel"].__module__]
    (comfy.base / "secret.safetensors").write_bytes(b"x")
    with pytest.raises(RequestError, match=rf"The model_name input got '{name}': use one of"):
        load(comfy, name)
    with pytest.raises(LoadError, match=r"There is no '.*' in ComfyUI's diffusion_models folders\. Put the file there"):
        module.model_file("diffusion_models", name)


def test_linked_model_folders_and_files_are_read(comfy: Any, load_wan: Any, tmp_path: Path) -> None:
    """People keep models on another disk and link them."""
    import folder_paths

    load_wan()
    stored = tmp_path / "disk" / "linked.safetensors"
    stored.parent.mkdir()
    stored.write_bytes((comfy.model_folder("diffusion_models") / "t2v_0.safetensors").read_bytes())
    os.symlink(stored.parent, tmp_path / "models")
    os.symlink(stored, comfy.model_folder("diffusion_models") / "one_link.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path / "models"))
    for name in ("linked.safetensors", "one_link.safetensors"):
        assert load(comfy, name).model.diffusion_model.dim == 64
