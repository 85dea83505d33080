"""FastVideo Sparse Attention together with other nodes: what composes acts as without it, what cannot is refused by name."""

import shutil
from typing import Any

import pytest
import torch
from caching import cached, put_table
from sampling import relative_error, run_ksampler, run_node
from test_attention import attended
from test_composition import PATCHES, context_windows
from test_sparse_attention import DENSE, LAYERS, PLACES, calls, inputs_of, network_in, sparse

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")


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


def test_vaces_control_layers_are_layers(comfy: Any, vace: Any) -> None:
    """4 layers, and 2 control layers beside them."""
    plain = run_ksampler(vace, **inputs_of(side=16))
    ours, report = run_node(comfy, sparse(comfy, vace, layers=1, **DENSE["VSA"]), **inputs_of(side=16))
    assert calls(report) == [("single", "VSA", 2 * (3 + 1), 2 * (1 + 1))]
    assert relative_error(ours, plain) < 1e-5


@pytest.mark.parametrize("regional", [True, False], ids=["block by block", "the whole network"])
def test_torch_compile(comfy: Any, load_wan: Any, regional: bool) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = sparse(comfy, load_wan(), steps=1)
    keys = [f"diffusion_model.blocks.{i}" for i in range(LAYERS)] if regional else ["diffusion_model"]
    set_torch_compile_wrapper(model, backend="eager", keys=keys)
    try:
        ours, report = run_node(comfy, model, **inputs_of(side=16, steps=4))
    finally:
        torch.compiler.reset()
    expected, other = run_node(comfy, sparse(comfy, load_wan(), steps=1), **inputs_of(side=16, steps=4))
    assert calls(report) == calls(other) == [("single", "VSA", 3 * LAYERS, LAYERS)]
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's own backend compiles for the CPU by a C++ compiler")
def test_blocks_compiled_by_torchs_own_backend_with_the_flex_kernel(comfy: Any, load_wan: Any) -> None:
    """torch 2.11 compiles flex attention wrongly along with the map that it goes by: the kernel stays a piece of its own."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, inputs = sparse(comfy, load_wan(), steps=1, kernel="flex"), inputs_of(side=16)
    set_torch_compile_wrapper(model, backend="inductor", keys=[f"diffusion_model.blocks.{i}" for i in range(LAYERS)])
    try:
        ours, report = run_node(comfy, model, **inputs)
    finally:
        torch.compiler.reset()
    expected, _ = run_node(comfy, sparse(comfy, load_wan(), steps=1), **inputs)
    assert calls(report) == [("single", "VSA", LAYERS, LAYERS)]
    assert relative_error(ours, expected) < 1e-5


def test_compiled_blocks_are_compiled_in_the_first_sparse_step_for_good(comfy: Any, load_wan: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.testing import CompileCounter

    counts = []
    for steps in (2, 6):
        compiled, model = CompileCounter(), sparse(comfy, load_wan(), steps=1, layers=1)
        set_torch_compile_wrapper(model, backend=compiled, keys=[f"diffusion_model.blocks.{i}" for i in range(LAYERS)])
        torch.compiler.reset()
        _, report = run_node(comfy, model, **inputs_of(side=16, steps=steps))
        counts.append(compiled.frame_count)
        assert calls(report) == [("single", "VSA", steps - 1, steps + 1)]
    torch.compiler.reset()
    assert counts[0] == counts[1] > 0


def test_several_gpus_are_refused(comfy: Any, load_wan: Any) -> None:
    model = sparse(comfy, load_wan())
    model.set_additional_models("multigpu", [load_wan().clone()])
    with pytest.raises(RequestError, match=r"MultiGPU node spreads over several GPUs.*Remove one of the two nodes"):
        run_ksampler(model)


@pytest.mark.parametrize("dense_steps", [0, 2])
def test_tokens_beside_the_videos_are_refused_in_the_first_step(comfy: Any, load_wan: Any, dense_steps: int) -> None:
    """As networks that read a reference image's tokens have them."""
    chosen, computed = sparse(comfy, load_wan(), steps=dense_steps), []

    def with_reference(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        computed.append(args["transformer_options"]["sigmas"])
        longer = {**args, "img": torch.cat([args["img"], args["img"][:, :16]], 1), "pe": longer_rope(args["pe"])}
        return {"img": extra["original_block"](longer)["img"][:, :-16]}

    def longer_rope(rope: Any) -> Any:
        axis = next(i for i, extent in enumerate(rope.shape) if extent == 48)
        return torch.cat([rope, rope.narrow(axis, 0, 16)], axis)

    chosen.set_model_patch_replace(with_reference, "dit", "double_block", 0)
    with pytest.raises(RequestError, match=r"3 x 4 x 4 = 48 tokens and the network's self-attention 64: .* Remove FastVideo"):
        run_ksampler(chosen, steps=3)
    assert len(computed) == 1
    if dense_steps:
        run_ksampler(chosen, steps=dense_steps)  # no sparse step would come


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": torch.ones(48, 48, dtype=torch.bool)}, "gives the model's attention a mask, and VSA was prepared for calls"),
        ({"scale": 0.3}, "asks attention for scale, which FastVideo Sparse Attention does not know"),
    ],
)
def test_what_it_cannot_do_is_refused_and_not_dropped(
    comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str
) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    chosen = sparse(comfy, load_wan())

    def asking(self: Any, x: Any, freqs: Any, transformer_options: Any = {}) -> Any:  # noqa: B006
        return attention_pytorch(x, x, x, heads=self.num_heads, transformer_options=transformer_options, **asked)

    module = chosen.model.diffusion_model.blocks[0].self_attn
    monkeypatch.setitem(vars(module), "forward", asking.__get__(module))
    with pytest.raises(RequestError, match=said):
        run_ksampler(chosen, steps=1)
