"""Weights of trained sparse attention for core's network, which has no place for them: named on the node, they take part."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from caching import attributes
from graphs import node, sampler_prompt, with_inputs
from safetensors.torch import save_file
from sampling import normal, relative_error, run_ksampler, run_node
from test_attention import attended
from test_diffusers_model import load
from test_parity_engine import engine_conditioning
from test_sparse_attention import LAYERS, SPARSE, calls, inputs_of, sparse
from tiny_wan import metadata, random_weights

from fastvideo_core import Guidance, LoadError, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.attention.sparse import SLASettings, SparseExperts, SparseSchedule, VSASettings
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

DIM, HEAD_DIM = 128, 64
TRAINED = {"VSA": ("blocks.{}.to_gate_compress", DIM), "SLA": ("blocks.{}.self_attn.attn_op.local_attn.proj_l", HEAD_DIM)}


def layers_of(variant: str, layers: int = LAYERS, width: int | None = None, seed: int = 60) -> dict[str, torch.Tensor]:
    pattern, own = TRAINED[variant]
    width = width or own
    weights = {f"{pattern.format(i)}.weight": 0.3 * normal(seed + i, width, width) for i in range(layers)}
    return weights | {f"{pattern.format(i)}.bias": 0.3 * normal(seed + 10 + i, width) for i in range(layers)}


def save(host: Any, name: str, trained: dict[str, torch.Tensor], seed: int = 0) -> Any:
    """A file of two heads in ComfyUI's folder, and the MODEL that core's loader makes of it."""
    from comfy.sd import load_diffusion_model

    path: Path = host.model_folder("diffusion_models") / name
    save_file(random_weights("t2v", seed, DIM) | trained, path, metadata(DIM // HEAD_DIM))
    return load_diffusion_model(str(path))


def files_of(host: Any, variant: str) -> tuple[str, Any]:
    name = f"trained_{variant}_of_two_heads.safetensors"
    return name, save(host, name, layers_of(variant))


def named(host: Any, model: Any, variant: str, file: str, **changes: Any) -> Any:
    """The MODEL through the node, with a file of trained weights."""
    inputs = {"enabled": True, "dense_steps": 0, "dense_layers": 0, "kernel": "gather", "trained_weights": file, **changes}
    node = host.node_classes["FastVideoSparseAttention"]
    return node.execute(model=model, variant={"variant": variant, **SPARSE[variant]}, **inputs).args[0]


@pytest.mark.parametrize("variant", TRAINED)
def test_both_doors_compute_the_same(comfy: Any, variant: str) -> None:
    """The same file in core's network with the file named, and in the pack's own network, which keeps the weights."""
    file, model = files_of(comfy, variant)
    native, own = named(comfy, model, variant, file), sparse(comfy, load(comfy, file), variant)
    ours, report = run_node(comfy, native, **inputs_of())
    other, _ = run_node(comfy, own, **inputs_of())
    free, _ = run_node(comfy, sparse(comfy, model, variant), **inputs_of())
    assert relative_error(ours, other) < 1e-5 and relative_error(ours, free) > 1e-3
    assert calls(report) == [("single", variant, 2 * LAYERS, 0)] and report.notes == ()
    assert f"trained_weights {file}" in report.text()
    assert relative_error(run_ksampler(native, **inputs_of()), run_ksampler(own, **inputs_of())) < 1e-5


@pytest.mark.parametrize("variant", TRAINED)
def test_the_engine_computes_the_same(comfy: Any, variant: str) -> None:
    file, model = files_of(comfy, variant)
    ours, _ = run_node(comfy, named(comfy, model, variant, file), **inputs_of(), **{"seed": 3})
    request, shape, cpu = SamplingRequest(steps=2, shift=5.0, guidance_scale=4.0, seed=3), (1, 16, 3, 32, 32), torch.device("cpu")
    network, conditioning = load_transformer(comfy.model_folder("diffusion_models") / file), engine_conditioning(model, "t2v")
    settings = {"VSA": VSASettings(sparsity=0.5), "SLA": SLASettings(sparsity=0.5)}[variant]
    dense = WanExperts({"single": network}, conditioning, shape, cpu, cpu)
    experts = SparseExperts(dense, request.plan(), SparseSchedule(settings=settings, kernel="gather"))
    *_, last = generate(request, experts, conditioning, seeded_noise(shape, 3), Guidance(request.plan(), request.guidance))
    assert relative_error(ours, model.model.process_latent_out(last.latents)) < 1e-5


def test_each_expert_reads_its_own_file(comfy: Any) -> None:
    models = [save(comfy, f"gates_{seed}.safetensors", layers_of("VSA", seed=60 + seed), seed) for seed in (0, 1)]
    high, low = (named(comfy, model, "VSA", f"gates_{i}.safetensors") for i, model in enumerate(models))
    ours, report = run_node(comfy, high, low_noise_model=low, **inputs_of(steps=4))
    high, low = (sparse(comfy, load(comfy, f"gates_{i}.safetensors")) for i in (0, 1))
    other, _ = run_node(comfy, high, low_noise_model=low, **inputs_of(steps=4))
    assert relative_error(ours, other) < 1e-5
    assert [part.settings["trained_weights"] for part in report.sparse] == ["gates_0.safetensors", "gates_1.safetensors"]


def test_dense_steps_and_layers_and_a_chosen_backend_beside_it(comfy: Any) -> None:
    file, model = files_of(comfy, "VSA")
    chosen = attended(comfy, named(comfy, model, "VSA", file, dense_steps=1, dense_layers=1))
    other = attended(comfy, sparse(comfy, load(comfy, file), steps=1, layers=1))
    ours, report = run_node(comfy, chosen, **inputs_of(steps=3))
    assert relative_error(ours, run_node(comfy, other, **inputs_of(steps=3))[0]) < 1e-5
    assert calls(report) == [("single", "VSA", 2, 4)]


def test_core_loads_and_counts_them_with_the_model_and_they_go_with_it(comfy: Any) -> None:
    from comfy import model_management

    file, model = files_of(comfy, "VSA")
    before, plain = attributes(model), run_ksampler(model, steps=1)
    chosen = named(comfy, model, "VSA", file)
    (beside,) = chosen.get_nested_additional_models()
    seen: list[bool] = []

    def look(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        seen.append(any(loaded.model is not None and loaded.model.is_clone(beside) for loaded in loaded_models(model_management)))
        return extra["original_block"](args)

    watched = chosen.clone()
    watched.set_model_patch_replace(look, "dit", "double_block", 0)
    run_ksampler(watched, steps=1)
    assert seen and all(seen)
    assert beside.model_size() == LAYERS * (DIM * DIM + DIM) * 4
    assert model.get_nested_additional_models() == [] and attributes(model) == before
    assert torch.equal(run_ksampler(model, steps=1), plain)


def loaded_models(model_management: Any) -> list[Any]:
    return list(model_management.current_loaded_models)


def test_they_compute_in_the_models_dtype_whoever_sets_it(comfy: Any) -> None:
    file, model = files_of(comfy, "VSA")
    full, _ = run_node(comfy, named(comfy, model, "VSA", file), **inputs_of(side=16))
    chosen = named(comfy, model, "VSA", file)
    chosen.set_model_compute_dtype(torch.bfloat16)
    half, report = run_node(comfy, chosen, **inputs_of(side=16))
    assert report.dtype == "bfloat16"
    assert 1e-4 < relative_error(half, full) < 0.05


def test_compiled_blocks_are_compiled_no_more_after_the_first_sparse_step(comfy: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.testing import CompileCounter

    file, model = files_of(comfy, "VSA")
    expected, _ = run_node(comfy, named(comfy, model, "VSA", file, dense_steps=1), **inputs_of(side=16, steps=5))
    counts = []
    for steps in (2, 5):
        compiled, chosen = CompileCounter(), named(comfy, model, "VSA", file, dense_steps=1)
        set_torch_compile_wrapper(chosen, backend=compiled, keys=[f"diffusion_model.blocks.{i}" for i in range(LAYERS)])
        torch.compiler.reset()
        ours, _ = run_node(comfy, chosen, **inputs_of(side=16, steps=steps))
        counts.append(compiled.frame_count)
    torch.compiler.reset()
    assert counts[0] == counts[1] > 0
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.parametrize(
    ("variant", "trained", "error", "said"),
    [
        ("VSA", {}, LoadError, r"no weights of VSA: no layer is named to_gate_compress\. It was not trained with it"),
        ("VSA", layers_of("SLA"), LoadError, r"no weights of VSA.* It has those of SLA: choose that variant"),
        ("VSA", layers_of("VSA", layers=3), LoadError, r"in 3 layers, 3 of them.*The network has 2 layers of width 128"),
        ("VSA", layers_of("VSA", width=96), LoadError, r"layer 0\.weight is \(96, 96\), not \(128, 128\)"),
        ("VSA", {"blocks.1.to_gate_compress.weight": torch.ones(DIM, DIM)}, LoadError, "in 2 layers, 1 of them with weights"),
        ("SLA", layers_of("SLA", width=32), LoadError, r"layer 0\.weight is \(32, 32\), not \(64, 64\).* 64 per head"),
        ("STA", layers_of("VSA"), RequestError, "STA reads no trained weights, only VSA and SLA do"),
    ],
    ids=["none", "the other variant's", "more layers", "wider", "a layer without", "other heads", "a variant without"],
)
def test_a_file_that_does_not_fit_is_refused(
    comfy: Any, variant: str, trained: dict[str, torch.Tensor], error: type[Exception], said: str
) -> None:
    folder, model = comfy.model_folder("diffusion_models"), save(comfy, "plain_of_two_heads.safetensors", {})
    save_file(trained | {"patch_embedding.bias": torch.zeros(2)}, folder / "other.safetensors")
    with pytest.raises(error, match=said):
        named(comfy, model, variant, "other.safetensors")


def test_a_layer_that_lacks_what_others_have_is_refused(comfy: Any) -> None:
    model = save(comfy, "plain_of_two_heads.safetensors", {})
    trained = layers_of("VSA")
    del trained["blocks.1.to_gate_compress.bias"]
    save_file(trained, comfy.model_folder("diffusion_models") / "torn.safetensors")
    with pytest.raises(LoadError, match=r"differ from layer to layer: 1\.bias"):
        named(comfy, model, "VSA", "torn.safetensors")


def test_names_outside_the_folders_and_networks_with_weights_of_their_own_are_refused(comfy: Any, vace: Any) -> None:
    file, model = files_of(comfy, "VSA")
    with pytest.raises(RequestError, match=r"The trained_weights input got '\.\./secret\.safetensors': use one of"):
        named(comfy, model, "VSA", "../secret.safetensors")
    with pytest.raises(RequestError, match="from FastVideo Load Diffusers Model has its file's trained weights already"):
        named(comfy, load(comfy, file), "VSA", file)
    with pytest.raises(RequestError, match="WAN21_Vace has control layers or inputs that no published weights"):
        named(comfy, vace, "VSA", file)


def test_a_diffusers_folder_is_a_file_too(comfy: Any) -> None:
    """As FastVideo publishes FastWan: core's loader reads another file of the same network."""
    file, model = files_of(comfy, "VSA")
    folder = comfy.model_folder("diffusers") / "FastWan" / "transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    save_file(layers_of("VSA"), folder / "diffusion_pytorch_model.safetensors")
    of_folder, _ = run_node(comfy, named(comfy, model, "VSA", "FastWan/transformer"), **inputs_of(side=16))
    assert torch.equal(of_folder, run_node(comfy, named(comfy, model, "VSA", file), **inputs_of(side=16))[0])


def test_workflows_of_before_open_as_they_were(comfy: Any) -> None:
    """Not given, it is none; and it stands after every widget that a saved workflow has a value for."""
    schema = comfy.node_classes["FastVideoSparseAttention"].define_schema()
    last = schema.inputs[-1]
    assert (last.id, last.optional, last.default, last.options[0]) == ("trained_weights", True, "none", "none")


def test_in_a_prompt(prompts: Any) -> None:
    save_file(layers_of("VSA", width=64), prompts.model_folder("diffusion_models") / "gates_in_a_prompt.safetensors")
    inputs = {"enabled": True, "variant": "VSA", "variant.sparsity": 0.5, "dense_steps": 0, "dense_layers": 0, "kernel": "gather"}
    prompt = with_inputs(sampler_prompt(steps=2), "5", model=["7", 0])
    prompt["7"] = node("FastVideoSparseAttention", model=["1", 0], trained_weights="gates_in_a_prompt.safetensors", **inputs)
    report = prompts.run(prompt, {"report": ("5", 1)}).captured["report"]
    assert report.sparse[0].settings["trained_weights"] == "gates_in_a_prompt.safetensors"
