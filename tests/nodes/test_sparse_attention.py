"""FastVideo Sparse Attention: it engages where it is asked to, behind both doors alike, and is gone with the node."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from caching import attributes, cached, put_table
from sampling import conditions_of, latent_of, relative_error, run_ksampler, run_node
from test_attention import attended
from test_composition import PATCHES, context_windows
from test_diffusers_model import load

from fastvideo_core import RequestError

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


def sparse(host: Any, model: Any, name: str = "VSA", steps: int = 0, layers: int = 0, enabled: bool = True, **fields: Any) -> Any:
    """The MODEL through the node."""
    node = host.node_classes["FastVideoSparseAttention"]
    variant = {"variant": name, **(fields or SPARSE[name])}
    inputs = {"enabled": enabled, "dense_steps": steps, "dense_layers": layers, "kernel": "gather"}
    return node.execute(model=model, variant=variant, **inputs).args[0]


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

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    stopped, on_it = chosen.clone(), attributes(chosen)
    stopped.set_model_patch_replace(interrupt, "dit", "double_block", 1)
    with pytest.raises(KeyboardInterrupt):
        run_ksampler(stopped, steps=1)
    assert attributes(chosen) == on_it
    assert not any("forward" in vars(module) for module in chosen.model.diffusion_model.modules())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("order", ["sparse first", "attention first"])
def test_the_chosen_backend_stays_in_dense_steps_and_layers(comfy: Any, load_wan: Any, place: str, order: str) -> None:
    model = network_in(comfy, load_wan, place)
    chosen = (
        attended(comfy, sparse(comfy, model, steps=1, layers=1))
        if order == "sparse first"
        else sparse(comfy, attended(comfy, model), steps=1, layers=1)
    )
    _, report = run_node(comfy, chosen, **inputs_of(steps=4))
    assert calls(report) == [("single", "VSA", 3, 5)]
    assert [(part.backend, part.calls, part.network_calls) for part in report.attention] == [
        ("sdpa_math", 5, 4),
        ("sdpa_math", 8, 4),
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("order", ["cache first", "sparse first"])
def test_blocks_that_a_step_cache_skips_are_no_calls(comfy: Any, load_wan: Any, place: str, order: str) -> None:
    put_table(comfy, load_wan())
    model = network_in(comfy, load_wan, place)
    chosen = sparse(comfy, cached(comfy, model)) if order == "cache first" else cached(comfy, sparse(comfy, model))
    _, report = run_node(comfy, chosen, **inputs_of(side=16, steps=8))
    computed = report.caches[0].phases[0].computed
    assert 0 < computed < 8
    assert calls(report) == [("single", "VSA", LAYERS * computed, 0)]


@pytest.mark.parametrize("name", [name for name in PATCHES if name != "attention override"])
def test_other_nodes_act_as_before(comfy: Any, load_wan: Any, name: str) -> None:
    """Whichever node comes first; dense steps are core's own attention."""
    patch, model, inputs = PATCHES[name], load_wan(), inputs_of(side=8, steps=3)
    expected = run_ksampler(patch(comfy, model), **inputs)
    assert torch.equal(run_ksampler(patch(comfy, sparse(comfy, model, steps=9)), **inputs), expected)
    assert torch.equal(run_ksampler(sparse(comfy, patch(comfy, model), steps=9), **inputs), expected)
    dense = sparse(comfy, patch(comfy, model), **DENSE["VSA"])
    assert relative_error(run_ksampler(dense, **inputs), expected) < 1e-4


def test_context_windows_have_tiles_of_their_own_size(comfy: Any, load_wan: Any) -> None:
    inputs = inputs_of(frames=7, side=16)
    model = context_windows(comfy, load_wan())
    ours, report = run_node(comfy, sparse(comfy, model, **DENSE["VSA"]), **inputs)
    assert relative_error(ours, run_node(comfy, model, **inputs)[0]) < 1e-5
    assert all(part.sparse_calls and part.dense_calls == 0 for part in report.sparse)


def test_another_attention_on_the_model_is_refused_by_name(comfy: Any, load_wan: Any) -> None:
    patch = PATCHES["attention override"]
    with pytest.raises(RequestError, match=r"Sparse Attention and another pack's attention \(test_composition\..*override"):
        sparse(comfy, patch(comfy, load_wan()))
    with pytest.raises(RequestError, match="Sparse Attention and another pack's attention"):
        run_ksampler(patch(comfy, sparse(comfy, load_wan())), steps=1)
    with pytest.raises(RequestError, match="two FastVideo Sparse Attention nodes on one MODEL"):
        sparse(comfy, sparse(comfy, load_wan()))


def test_tokens_beside_the_videos_are_refused(comfy: Any, load_wan: Any) -> None:
    """As networks that read a reference image's tokens have them."""
    chosen = sparse(comfy, load_wan())

    def with_reference(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        longer = {**args, "img": torch.cat([args["img"], args["img"][:, :16]], 1), "pe": longer_rope(args["pe"])}
        return {"img": extra["original_block"](longer)["img"][:, :-16]}

    def longer_rope(rope: Any) -> Any:
        axis = next(i for i, extent in enumerate(rope.shape) if extent == 48)
        return torch.cat([rope, rope.narrow(axis, 0, 16)], axis)

    chosen.set_model_patch_replace(with_reference, "dit", "double_block", 0)
    with pytest.raises(RequestError, match=r"3 x 4 x 4 = 48 tokens and the network's self-attention 64: .* Remove FastVideo"):
        run_ksampler(chosen, steps=1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": torch.ones(48, 48, dtype=torch.bool)}, "gives the model's attention a mask, and VSA was prepared for calls"),
        ({"scale": 0.3}, "asks attention for scale, which FastVideo Sparse Attention does not know"),
    ],
)
def test_what_it_cannot_do_is_refused_and_not_dropped(comfy: Any, load_wan: Any, asked: dict[str, Any], said: str) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    chosen = sparse(comfy, load_wan())

    def asking(self: Any, x: Any, freqs: Any, transformer_options: Any = {}) -> Any:  # noqa: B006
        return attention_pytorch(x, x, x, heads=self.num_heads, transformer_options=transformer_options, **asked)

    module = chosen.model.diffusion_model.blocks[0].self_attn
    chosen.add_object_patch("diffusion_model.blocks.0.self_attn.forward", asking.__get__(module))
    with pytest.raises(RequestError, match=said):
        run_ksampler(chosen, steps=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "best"}, "The variant of sparse attention is 'best': use one of VSA, SLA, BSA, STA, NABLA"),
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
