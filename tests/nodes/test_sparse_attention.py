"""FastVideo Sparse Attention: it engages where it is asked to, behind both doors alike, and is gone with the node."""

import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from caching import attributes
from graphs import node, sampler_prompt, with_inputs
from safetensors.torch import load_file, save_file
from sampling import conditions_of, latent_of, normal, relative_error, run_ksampler, run_node
from test_diffusers_model import load
from test_parity_engine import engine_conditioning
from tiny_wan import METADATA

from fastvideo_core import Guidance, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.attention.sparse import SparseExperts, SparseSchedule, STASettings, VSASettings
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

LAYERS = 2
DENSE: dict[str, dict[str, Any]] = {
    "VSA": {"sparsity": 0.0},
    "SLA": {"sparsity": 0.0, "feature_map": "softmax"},
    "BSA": {"kept_queries": 1.0, "mass": 1.0, "least_tiles": 1},
    "STA": {"window_time": 9, "window_height": 9, "window_width": 9},
    "NABLA": {"mass": 1.0, "window_time": 0, "window_height": 0, "window_width": 0},
}
SPARSE: dict[str, dict[str, Any]] = {
    "VSA": {"sparsity": 0.5},
    "SLA": {"sparsity": 0.5, "feature_map": "softmax"},
    "BSA": {"kept_queries": 0.5, "mass": 0.5, "least_tiles": 1},
    "STA": {"window_time": 1, "window_height": 1, "window_width": 1},
    "NABLA": {"mass": 0.3, "window_time": 1, "window_height": 1, "window_width": 1},
}
PLACES = ["core", "diffusers"]


def sparse(
    host: Any,
    model: Any,
    name: str = "VSA",
    steps: int = 0,
    layers: int = 0,
    enabled: bool = True,
    kernel: str = "gather",
    **fields: Any,
) -> Any:
    """The MODEL through the node."""
    variant = {"variant": name, **(fields or SPARSE[name])}
    inputs = {"enabled": enabled, "dense_steps": steps, "dense_layers": layers, "kernel": kernel}
    return host.node_classes["FastVideoSparseAttention"].execute(model=model, variant=variant, **inputs).args[0]


def inputs_of(kind: str = "t2v", frames: int = 3, side: int = 32, steps: int = 2) -> dict[str, Any]:
    """768 tokens: 16 tiles of 4 x 4 x 4, 4 tiles of 6 x 8 x 8."""
    positive, negative = conditions_of(kind, frames, side)
    return {"positive": positive, "negative": negative, "latent": latent_of(kind, frames, side), "steps": steps}


def network_in(host: Any, load_wan: Any, place: str, kind: str = "t2v") -> Any:
    """A MODEL of core's loader, or of FastVideo Load Diffusers Model, with the same weights."""
    native = load_wan(kind)
    return native if place == "core" else load(host, f"{kind}_0.safetensors")


def calls(report: Any) -> list[tuple[str, str, int, int]]:
    return [(part.expert, part.variant, part.sparse_calls, part.dense_calls) for part in report.sparse]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", DENSE)
def test_dense_settings_engage_and_equal_the_plain_model(comfy: Any, load_wan: Any, name: str, place: str) -> None:
    model = network_in(comfy, load_wan, place)
    plain, before = run_node(comfy, model, **inputs_of())
    ours, report = run_node(comfy, sparse(comfy, model, name, **DENSE[name]), **inputs_of())
    assert relative_error(ours, plain) < 1e-5
    assert calls(report) == [("single", name, 2 * LAYERS, 0)] and report.sparse[0].density == 1.0
    assert before.sparse == ()


@pytest.mark.parametrize("name", SPARSE)
def test_both_doors_compute_the_same(comfy: Any, load_wan: Any, name: str) -> None:
    native, report = run_node(comfy, sparse(comfy, load_wan(), name), **inputs_of())
    engine, other = run_node(comfy, sparse(comfy, load(comfy, "t2v_0.safetensors"), name), **inputs_of())
    plain, _ = run_node(comfy, load_wan(), **inputs_of())
    assert relative_error(native, plain) > 1e-3
    assert relative_error(native, engine) < 1e-5
    assert calls(report) == calls(other) == [("single", name, 2 * LAYERS, 0)]
    assert 0 < report.sparse[0].density < 0.9 and report.sparse[0].density == pytest.approx(other.sparse[0].density, rel=1e-3)
    assert f"sparse self-attention of the single expert: {name} (" in report.text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="the flex kernel is compiled, on the CPU by a C++ compiler")
@pytest.mark.parametrize("place", PLACES)
def test_the_flex_kernel_computes_what_gather_does(comfy: Any, load_wan: Any, place: str) -> None:
    """And is compiled once: the second network finds the first one's code."""
    model, inputs = network_in(comfy, load_wan, place), inputs_of(side=16)
    ours, report = run_node(comfy, sparse(comfy, model, layers=1, kernel="flex"), **inputs)
    other, expected = run_node(comfy, sparse(comfy, model, layers=1), **inputs)
    assert relative_error(ours, other) < 1e-5
    assert calls(report) == calls(expected) == [("single", "VSA", 2, 2)]
    assert report.sparse[0].density == pytest.approx(expected.sparse[0].density, rel=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_a_kernel_that_cannot_run_here_is_refused_by_the_node(
    comfy: Any, load_wan: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network_in(comfy, load_wan, place)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RequestError, match=r"kernel flex .* cannot run here .*no C\+\+ compiler.*Choose the kernel gather"):
        sparse(comfy, model, kernel="flex")


@pytest.mark.parametrize("name", ["VSA", "STA"])
def test_the_engine_computes_the_same(comfy: Any, load_wan: Any, name: str) -> None:
    """`fastvideo_core.generate` over `SparseExperts` on diffusers' network."""
    model, settings = load_wan(), {"VSA": VSASettings(sparsity=0.5), "STA": STASettings(window=(1, 1, 1))}[name]
    ours, report = run_node(comfy, sparse(comfy, model, name, steps=1), **inputs_of(steps=4))
    request, shape, cpu = (
        SamplingRequest(steps=4, shift=5.0, guidance_scale=4.0, seed=3, solver="euler"),
        (1, 16, 3, 32, 32),
        torch.device("cpu"),
    )
    network = load_transformer(comfy.model_folder("diffusion_models") / "t2v_0.safetensors")
    conditioning = engine_conditioning(model, "t2v")
    schedule = SparseSchedule(settings=settings, dense_steps=1, kernel="gather")
    experts = SparseExperts(WanExperts({"single": network}, conditioning, shape, cpu, cpu), request.plan(), schedule)
    *_, last = generate(request, experts, conditioning, seeded_noise(shape, 3), Guidance(request.plan(), request.guidance))
    assert relative_error(ours, model.model.process_latent_out(last.latents)) < 1e-5
    assert calls(report) == [("single", name, 3 * LAYERS, LAYERS)]
    assert report.sparse[0].density == pytest.approx(experts.reports()[0].density, rel=1e-3)


@pytest.mark.parametrize(("weight", "name", "width"), [("to_gate_compress", "VSA", 64), ("proj_l", "SLA", 64)])
def test_trained_weights_take_part_on_the_packs_own_network(
    comfy: Any, load_wan: Any, weight: str, name: str, width: int
) -> None:
    """ComfyUI's loader drops them, so that its network computes the training-free form."""
    load_wan()
    folder = comfy.model_folder("diffusion_models")
    trained = {f"blocks.{i}.self_attn.{weight}.weight": 0.3 * normal(60 + i, width, width) for i in range(LAYERS)}
    save_file(load_file(folder / "t2v_0.safetensors") | trained, folder / f"trained_{name}.safetensors", METADATA)
    with_them = load(comfy, f"trained_{name}.safetensors")
    free, _ = run_node(comfy, sparse(comfy, load_wan(), name), **inputs_of())
    ours, report = run_node(comfy, sparse(comfy, with_them, name), **inputs_of())
    assert relative_error(ours, free) > 1e-3
    said = f"The model was trained with sparse attention {name}"
    assert not [note for note in report.notes if note.startswith(said)]
    _, without = run_node(comfy, with_them, **inputs_of(steps=1))
    assert len([note for note in without.notes if note.startswith(said)]) == 1


@pytest.mark.parametrize("kind", ["i2v", "i2v_clip", "flf2v", "ti2v"])
def test_every_kind_of_network(comfy: Any, load_wan: Any, kind: str) -> None:
    ours, report = run_node(comfy, sparse(comfy, load_wan(kind)), kind, **inputs_of(kind, side=16))
    engine, _ = run_node(comfy, sparse(comfy, load(comfy, f"{kind}_0.safetensors")), kind, **inputs_of(kind, side=16))
    assert relative_error(ours, engine) < 1e-5
    assert calls(report) == [("single", "VSA", 2 * LAYERS, 0)] and report.sparse[0].density == 0.5


@pytest.mark.parametrize("place", PLACES)
def test_the_first_steps_and_layers_stay_dense(comfy: Any, load_wan: Any, place: str) -> None:
    model = network_in(comfy, load_wan, place)
    _, report = run_node(comfy, sparse(comfy, model, steps=1, layers=1), **inputs_of(steps=4))
    assert calls(report) == [("single", "VSA", 3, 5)]
    ours, report = run_node(comfy, sparse(comfy, model, steps=4), **inputs_of(steps=4))
    assert calls(report) == [("single", "VSA", 0, 8)] and report.sparse[0].density is None
    assert torch.equal(ours, run_node(comfy, model, **inputs_of(steps=4))[0])


def test_a_second_look_at_a_step_is_in_that_step(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    """heun looks twice at each step but the last, the second time at the next one's level."""
    with caplog.at_level("INFO"):
        run_ksampler(sparse(comfy, load_wan(), steps=2), sampler="heun", **inputs_of(side=16, steps=4))
    assert "sparse self-attention of the single expert: VSA" in caplog.text
    assert "in 8 of 14 calls" in caplog.text


def test_each_expert_has_its_own(comfy: Any, load_wan: Any) -> None:
    """Both experts are patchings of one network; dense steps are the generation's."""
    model, inputs = load_wan(), inputs_of(steps=4)
    high, low = sparse(comfy, model, steps=1), sparse(comfy, model, "STA", steps=1)
    _, report = run_node(comfy, high, low_noise_model=low, **inputs)
    steps = {phase.expert: phase.steps for phase in report.phases}
    assert calls(report) == [
        ("high_noise", "VSA", LAYERS * (steps["high_noise"] - 1), LAYERS),
        ("low_noise", "STA", LAYERS * steps["low_noise"], 0),
    ]
    _, report = run_node(comfy, model, low_noise_model=low, **inputs)
    assert [part.expert for part in report.sparse] == ["low_noise"]


def test_the_experts_sparsities_are_the_engines(comfy: Any, load_wan: Any) -> None:
    """A schedule with a sparsity for each phase, behind both doors."""
    models = [load_wan("t2v", seed) for seed in (0, 1)]
    high, low = (sparse(comfy, model, steps=1, layers=1, sparsity=share) for model, share in zip(models, (0.5, 0.9), strict=True))
    ours, report = run_node(comfy, high, low_noise_model=low, **inputs_of(steps=4))
    request = SamplingRequest(
        steps=4, shift=5.0, guidance_scale=4.0, low_noise_guidance_scale=3.0, boundary=0.875, seed=3, solver="euler"
    )
    shape, cpu, conditioning = (1, 16, 3, 32, 32), torch.device("cpu"), engine_conditioning(models[0], "t2v")
    files = {"high_noise": "t2v_0.safetensors", "low_noise": "t2v_1.safetensors"}
    networks = {expert: load_transformer(comfy.model_folder("diffusion_models") / file) for expert, file in files.items()}
    schedule = SparseSchedule(
        settings=VSASettings(sparsity=0.5), low_noise=VSASettings(sparsity=0.9), dense_steps=1, dense_layers=1, kernel="gather"
    )
    experts = SparseExperts(WanExperts(networks, conditioning, shape, cpu, cpu), request.plan(), schedule)
    *_, last = generate(request, experts, conditioning, seeded_noise(shape, 3), Guidance(request.plan(), request.guidance))
    assert relative_error(ours, models[0].model.process_latent_out(last.latents)) < 1e-5
    assert calls(report) == [(part.expert, part.variant, part.sparse_calls, part.dense_calls) for part in experts.reports()]
    assert [part.settings["sparsity"] for part in report.sparse] == [0.5, 0.9]
    assert report.sparse[0].density > report.sparse[1].density > 0


@pytest.mark.parametrize("place", PLACES)
def test_without_the_node_nothing_of_it_remains(comfy: Any, load_wan: Any, place: str) -> None:
    model, inputs = network_in(comfy, load_wan, place), inputs_of()
    before, traces = run_ksampler(model, **inputs), attributes(model)
    assert sparse(comfy, model, enabled=False) is model
    chosen = sparse(comfy, model)
    on_it = attributes(chosen)
    assert not torch.equal(run_ksampler(chosen, **inputs), before)
    assert torch.equal(run_ksampler(model, **inputs), before)
    assert attributes(model) == traces and attributes(chosen) == on_it
    assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())


def test_nothing_remains_after_an_interrupt(comfy: Any, load_wan: Any) -> None:
    chosen = sparse(comfy, load_wan())
    modules = list(chosen.model.diffusion_model.modules())
    before = [vars(module).get("forward") for module in modules]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    stopped, on_it = chosen.clone(), attributes(chosen)
    stopped.set_model_patch_replace(interrupt, "dit", "double_block", 1)
    with pytest.raises(KeyboardInterrupt):
        run_ksampler(stopped, steps=1)
    assert attributes(chosen) == on_it
    assert [vars(module).get("forward") for module in modules] == before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "best"}, "The variant input got 'best': use one of VSA, SLA, BSA, STA, NABLA"),
        ({"layers": 2}, "dense_layers is 2 and the network has 2 layers"),
        ({"name": "NABLA", "mass": 0.5, "window_time": 0, "window_height": 3, "window_width": 3}, "NABLA's window is"),
    ],
)
def test_settings_that_cannot_be_are_refused(comfy: Any, load_wan: Any, values: dict[str, Any], said: str) -> None:
    fields = {} if len(values) > 1 or "layers" in values else {"sparsity": 0.5}
    with pytest.raises(RequestError, match=said):
        sparse(comfy, load_wan(), **fields, **values)


def test_another_model_than_wan_is_refused(tiny: Any) -> None:
    import nodes

    other = nodes.NODE_CLASS_MAPPINGS["TinyOtherModel"]().make("stable diffusion")[0]
    with pytest.raises(RequestError, match=r"samples Wan 2\.1 and 2\.2"):
        sparse(tiny, other)


def test_each_variant_has_fields_that_make_its_settings(comfy: Any, load_wan: Any) -> None:
    """The defaults are settings, and every field is read."""
    schema = comfy.node_classes["FastVideoSparseAttention"].define_schema()
    options: Sequence[Any] = next(given for given in schema.inputs if given.id == "variant").options
    assert [option.key for option in options] == list(SPARSE)
    for option in options:
        assert [given.id for given in option.inputs] == list(SPARSE[option.key])
        assert all(given.tooltip for given in option.inputs)
        assert sparse(comfy, load_wan(), option.key, **{given.id: given.default for given in option.inputs})


@pytest.mark.parametrize("name", SPARSE)
def test_in_a_prompt(prompts: Any, name: str) -> None:
    """The widgets as an API prompt has them."""
    fields = {f"variant.{field}": value for field, value in SPARSE[name].items()}
    inputs = {"enabled": True, "variant": name, "dense_steps": 1, "dense_layers": 0, "kernel": "gather", **fields}
    prompt = with_inputs(sampler_prompt(steps=2), "5", model=["7", 0])
    prompt["7"] = node("FastVideoSparseAttention", model=["1", 0], **inputs)
    report = prompts.run(prompt, {"report": ("5", 1)}).captured["report"]
    assert calls(report) == [("single", name, LAYERS, LAYERS)]
