"""FastVideo Attention's fold_text: the zero rows of the prompts folded, the same video but for rounding, on every kind of Wan."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from caching import cached, module_of, put_table
from sampling import conditions_of, normal, relative_error, run_chain, run_ksampler, run_node
from test_attention import KINDS, LAYERS, OVERRIDE, attended
from test_composition import PATCHES
from test_diffusers_model import load
from test_sparse_attention import sparse
from tiny_wan import TEXT_DIM, scaled
from torch import Tensor

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

TOLERANCE = 5e-6
"""Relative L2 error in float32 over all steps; measured up to 1.5e-6."""


def folding(host: Any, model: Any, fold_text: bool = True, cross: str = "sdpa") -> Any:
    return attended(host, model, "sdpa", cross, fold_text)


def prompts(positive: int, negative: int, kind: str = "t2v", lengths: tuple[int, int] = (512, 512)) -> dict[str, Any]:
    """Both CONDITIONINGs, with so many real rows."""
    given = {}
    for name, real, length, [entry] in zip(
        ("positive", "negative"), (positive, negative), lengths, conditions_of(kind), strict=True
    ):
        rows = torch.zeros(1, length, TEXT_DIM)
        rows[:, :real] = normal(60 + real, 1, real, TEXT_DIM)
        given[name] = [[rows, entry[1]]]
    return given


@contextmanager
def rows_read(model: Any) -> Iterator[list[int]]:
    """Filled with the rows of text that each call of the network embeds."""
    network, rows = model.model.diffusion_model, []
    embedding = network.text_embedding.get_submodule("0")
    hook = embedding.register_forward_hook(lambda module, args, out: rows.append(out.shape[1]))
    yield rows
    hook.remove()


def texts(report: Any) -> list[tuple[str, int, int]]:
    return [(text.expert, text.rows, text.read) for text in report.texts]


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_video_equals_that_over_all_512_rows(comfy: Any, load_wan: Any, kind: str, mode: str) -> None:
    """Prompts of 120 and 300 rows: both are read as 304, so that they go in one batch."""
    model, inputs = load_wan(kind), {**prompts(120, 300, kind), "guidance_mode": mode}
    full, before = run_node(comfy, folding(comfy, model, False), kind, **inputs)
    with rows_read(model) as rows:
        video, report = run_node(comfy, folding(comfy, model), kind, **inputs)
    assert set(rows) == {304} and len(rows) == (8 if mode == "batched" else 16)
    assert texts(before) == [("single", 512, 512)] and texts(report) == [("single", 512, 304)]
    assert "text of the single expert: all 512 rows read (as asked)" in before.text()
    assert "text of the single expert: 512 rows folded into 304" in report.text()
    assert 0 < relative_error(video, full) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_ksampler_has_it_too(comfy: Any, load_wan: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = load_wan(kind), prompts(20, 3, kind)
    full = run_ksampler(model, kind, **inputs)
    with rows_read(model) as rows, caplog.at_level("INFO"):
        video = run_ksampler(folding(comfy, model), kind, **inputs)
    assert set(rows) == {32}
    assert "text of the single expert: 512 rows folded into 32" in caplog.text
    assert 0 < relative_error(video, full) <= TOLERANCE
    assert torch.equal(run_ksampler(folding(comfy, model, False), kind, **inputs), full)


@pytest.mark.parametrize("real", [0, 1, 14, 15, 494])
def test_any_number_of_real_rows(comfy: Any, load_wan: Any, real: int) -> None:
    model, inputs = load_wan(), prompts(real, real // 2)
    video = run_ksampler(folding(comfy, model), **inputs)
    assert 0 < relative_error(video, run_ksampler(model, **inputs)) <= TOLERANCE


@pytest.mark.parametrize(("real", "length"), [(511, 512), (512, 512), (600, 600)])
def test_a_text_without_zero_rows_is_read_as_it_is(comfy: Any, load_wan: Any, real: int, length: int) -> None:
    model, inputs = load_wan(), prompts(real, 20, lengths=(length, length))
    video, report = run_node(comfy, folding(comfy, model), steps=2, **inputs)
    assert texts(report) == [("single", length, length)] or length == 600
    assert torch.equal(video, run_node(comfy, folding(comfy, model, False), steps=2, **inputs)[0]) or length == 600


def test_prompts_of_different_lengths_fold_apart(comfy: Any, load_wan: Any) -> None:
    """As after ConditioningConcat: the rows in the middle stay; core runs such branches one after the other."""
    model, inputs = load_wan(), prompts(520, 20, lengths=(1024, 512))
    inputs["positive"][0][0][:, 100:512] = 0
    full = run_node(comfy, folding(comfy, model, False), steps=4, **inputs)[0]
    video, report = run_node(comfy, folding(comfy, model), steps=4, **inputs)
    assert sorted(texts(report)) == [("single", 512, 32), ("single", 1024, 528)]
    assert 0 < relative_error(video, full) <= TOLERANCE


def test_two_experts_report_each_their_own(comfy: Any, load_wan: Any) -> None:
    high, low = load_wan(), load_wan("t2v", 1)
    full = run_node(comfy, high, low_noise_model=low)[0]
    video, report = run_node(comfy, folding(comfy, high), low_noise_model=folding(comfy, low, False))
    assert texts(report) == [("high_noise", 512, 32), ("low_noise", 512, 512)]
    video, report = run_node(comfy, folding(comfy, high), low_noise_model=folding(comfy, low))
    assert texts(report) == [("high_noise", 512, 32), ("low_noise", 512, 32)]
    assert 0 < relative_error(video, full) <= TOLERANCE
    chained = run_chain(folding(comfy, high), folding(comfy, low), "t2v", 3)
    assert 0 < relative_error(chained, run_chain(high, low, "t2v", 3)) <= TOLERANCE


def test_control_blocks_read_it_too(comfy: Any, vace: Any) -> None:
    video = run_ksampler(folding(comfy, vace))
    assert 0 < relative_error(video, run_ksampler(vace)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("model.CameraWanModel", {"num_layers": 2}, {"clip_fea": (257, 1280)}),
        ("model.WanModel_S2V", {"num_layers": 2, "audio_inject_layers": [0, 1]}, {"audio_embed": (25, 1024, 12)}),
        ("model.HumoWanModel", {"num_layers": 2}, {"audio_embed": (3, 8, 5, 1280)}),
        ("model.SCAILWanModel", {"num_layers": 2, "in_dim": 16}, {"clip_fea": (257, 1280)}),
        ("model_animate.AnimateWanModel", {"num_layers": 5}, {"clip_fea": (257, 1280)}),
    ],
    ids=["camera", "s2v", "humo", "scail", "animate"],
)
def test_other_networks_of_core_read_it(
    comfy: Any, load_wan: Any, name: str, settings: dict[str, Any], more: dict[str, tuple[int, ...]]
) -> None:
    """Whose blocks have other attentions beside those to text, such as to audio. One call of each, with the wrapper and the
    options of a generation on a plain MODEL."""
    from comfy import ops
    from comfy.samplers import CFGGuider

    module, _, kind = name.partition(".")
    made = getattr(importlib.import_module(f"comfy.ldm.wan.{module}"), kind)
    network = made(
        **{"in_dim": 16, "out_dim": 16, "text_dim": TEXT_DIM, "dim": 64, "ffn_dim": 128, "num_heads": 1, **settings},
        dtype=torch.float32, device=torch.device("cpu"), operations=ops.disable_weight_init,
    )  # fmt: skip
    network.load_state_dict(scaled(network.state_dict(), 0))
    guider, given = CFGGuider(folding(comfy, load_wan())), prompts(20, 3)
    guider.set_conds(**given)
    guider.conds = guider.original_conds
    options = guider.model_options["transformer_options"]
    own = module_of(comfy, "native.text").GenerationText.of(guider)
    text = given["positive"][0][0]
    call = {name: normal(70, 1, *shape) for name, shape in more.items()}
    full, folded = (
        network(normal(71, 1, 16, 3, 8, 8), torch.tensor([700.0]), text, transformer_options=each, **call)
        for each in ({}, {**options, OVERRIDE: options[OVERRIDE].override(own)})
    )
    assert [(each.rows, each.read) for each in own.reports("single")] == [(512, 32)]
    own.check()
    assert 0 < relative_error(folded, full) <= TOLERANCE


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip", "flf2v", "ti2v"])
def test_diffusers_networks_have_it_too(comfy: Any, load_wan: Any, kind: str) -> None:
    load_wan(kind)
    model, inputs = load(comfy, f"{kind}_0.safetensors"), prompts(120, 30, kind)
    full = run_node(comfy, model, kind, steps=4, **inputs)[0]
    with rows_read(model) as rows:
        video, report = run_node(comfy, folding(comfy, model), kind, steps=4, **inputs)
    assert set(rows) == {128} and texts(report) == [("single", 512, 128)]
    assert 0 < relative_error(video, full) <= TOLERANCE
    assert torch.equal(run_node(comfy, model, kind, steps=4, **inputs)[0], full)


@pytest.mark.parametrize("network", ["core", "diffusers"])
def test_step_caches_and_sparse_attention_go_with_it(comfy: Any, load_wan: Any, network: str) -> None:
    put_table(comfy, load_wan())
    base = load_wan() if network == "core" else load(comfy, "t2v_0.safetensors")
    for patch in (cached, sparse):
        full = run_node(comfy, patch(comfy, base))[0]
        for model in (patch(comfy, folding(comfy, base)), folding(comfy, patch(comfy, base))):
            video, report = run_node(comfy, model)
            assert texts(report) == [("single", 512, 32)]
            assert 0 < relative_error(video, full) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in PATCHES if name != "attention override"])
def test_other_nodes_act_as_before(comfy: Any, load_wan: Any, name: str) -> None:
    patch, model = PATCHES[name], load_wan()
    expected = run_ksampler(patch(comfy, model), steps=3)
    assert relative_error(run_ksampler(patch(comfy, folding(comfy, model)), steps=3), expected) <= TOLERANCE
    assert relative_error(run_ksampler(folding(comfy, patch(comfy, model)), steps=3), expected) <= TOLERANCE


def test_cross_attention_of_another_pack_reads_all_rows(comfy: Any, load_wan: Any) -> None:
    from comfy.ldm.wan.model import WanT2VCrossAttention
    from comfy.sd import load_diffusion_model

    load_wan()
    own = load_diffusion_model(str(comfy.model_folder("diffusion_models") / "t2v_0.safetensors"))

    def halved(self: Any, x: Any, context: Any, transformer_options: Any = {}, **kwargs: Any) -> Any:  # noqa: B006
        return 0.5 * WanT2VCrossAttention.forward(self, x, context, transformer_options=transformer_options)

    model = folding(comfy, own)
    module = own.model.diffusion_model.blocks[0].cross_attn
    model.add_object_patch("diffusion_model.blocks.0.cross_attn.forward", MethodType(halved, module))
    _, report = run_node(comfy, model, steps=2)
    assert "all 512 rows read (the network's cross-attention was changed)" in report.text()
    assert texts(run_node(comfy, folding(comfy, own), steps=2)[1]) == [("single", 512, 32)]


def test_a_text_that_is_longer_than_the_prompts_is_an_error(comfy: Any, load_wan: Any) -> None:
    """Which another pack puts in their place during the run."""
    from comfy.patcher_extension import WrappersMP

    def other_text(executor: Any, x: Any, timestep: Any, context: Tensor, *args: Any, **kwargs: Any) -> Any:
        return executor(x, timestep, context.roll(40, dims=1), *args, **kwargs)

    model = load_wan().clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", other_text)
    with pytest.raises(RequestError, match=r"gave the network a longer text, of which the end was not read. Turn fold_text off"):
        run_ksampler(folding(comfy, model), steps=2)
    run_ksampler(folding(comfy, model, False), steps=1)


def test_another_text_behind_the_fold_is_an_error(comfy: Any, load_wan: Any) -> None:
    def other_text(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"]({**args, "txt": torch.cat([args["txt"]] * 2, dim=1)})

    model = load_wan().clone()
    model.set_model_patch_replace(other_text, "dit", "double_block", 1)
    modules = list(model.model.diffusion_model.modules())
    before = [vars(module).get("forward") for module in modules]  # an object patch of another test stays as an attribute
    with pytest.raises(RequestError, match="into 32 rows, and the network's cross-attention got 64 with 0 image tokens"):
        run_ksampler(folding(comfy, model), steps=1)
    assert [vars(module).get("forward") for module in modules] == before


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip"])
def test_compiled_blocks_are_compiled_as_often_as_without_it(comfy: Any, load_wan: Any, kind: str) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.testing import CompileCounter

    counts, videos = [], []
    for chosen in (load_wan(kind), folding(comfy, load_wan(kind))):
        compiled, model = CompileCounter(), chosen.clone()
        set_torch_compile_wrapper(model, backend=compiled, keys=[f"diffusion_model.blocks.{i}" for i in range(LAYERS)])
        torch.compiler.reset()
        videos.append(run_ksampler(model, kind, steps=4))
        counts.append(compiled.frame_count)
    assert counts[1] == counts[0]
    assert 0 < relative_error(videos[1], videos[0]) <= TOLERANCE


def test_a_network_compiled_as_a_whole_is_not_compiled_anew_in_each_step(comfy: Any, load_wan: Any) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.testing import CompileCounter

    compiled, model, operations = CompileCounter(), folding(comfy, load_wan()).clone(), []
    set_torch_compile_wrapper(model, backend=compiled)

    def counted(apply_model: Any, args: dict[str, Any]) -> Any:
        operations.append(compiled.op_count)
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(counted)
    torch.compiler.reset()
    run_ksampler(model, steps=5)
    assert 0 < operations[2] == compiled.op_count, "after two steps nothing is compiled any more"


@pytest.mark.parametrize("backend", ["auto", "sdpa_math"])
def test_chosen_backends_take_the_bias(comfy: Any, load_wan: Any, backend: str) -> None:
    model = load_wan("i2v_clip")
    video, report = run_node(comfy, folding(comfy, model, cross=backend), "i2v_clip", steps=2)
    assert texts(report) == [("single", 512, 32)]
    assert relative_error(video, run_node(comfy, model, "i2v_clip", steps=2)[0]) <= 1e-5


def test_a_backend_without_bias_is_refused_for_its_own_reasons_only(comfy: Any, load_wan: Any) -> None:
    with pytest.raises(RequestError) as refused:
        folding(comfy, load_wan(), cross="sageattention_1")
    assert "needs the package" in str(refused.value) and "bias" not in str(refused.value)
