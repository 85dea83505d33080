"""The override of FastVideo Attention against core's own attention function: every layout, and nothing dropped."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from caching import module_of
from sampling import normal, relative_error, run_ksampler, run_node
from test_attention import OVERRIDE, attended
from test_compile import compiled
from test_other_networks import loaded
from test_sparse_attention import sparse
from tiny_wan import save_wan
from torch import Tensor, nn

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")


@pytest.mark.parametrize("skip_output_reshape", [False, True])
@pytest.mark.parametrize("skip_reshape", [False, True])
def test_every_layout_of_core_means_the_same(comfy: Any, load_wan: Any, skip_reshape: bool, skip_output_reshape: bool) -> None:
    """The override against core's own function."""
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call(skip_reshape, skip_output_reshape)
    given = {**call, "transformer_options": core_options(comfy, load_wan(), "sdpa")}
    assert torch.equal(attention_pytorch(q, k, v, **given), attention_pytorch(q, k, v, **call))
    scaled = attention_pytorch(q, k, v, **given, scale=0.3)
    assert relative_error(scaled, attention_pytorch(q * 0.3 * 8**0.5, k, v, **call)) < 1e-6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": torch.ones(10, 14, dtype=torch.bool)}, "gives the model's attention a mask, and sdpa was prepared for calls"),
        ({"attn_precision": torch.float64}, "asks for attention in torch.float64 and computes in torch.float32"),
        ({"enable_gqa": True}, "asks attention for enable_gqa, which FastVideo Attention does not know"),
    ],
)
def test_what_it_cannot_do_is_refused_and_not_dropped(comfy: Any, load_wan: Any, asked: dict[str, Any], said: str) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call()
    options = core_options(comfy, load_wan(), "sdpa")
    with pytest.raises(RequestError, match=said):
        attention_pytorch(q, k, v, **call, **asked, transformer_options=options)
    unread = {"low_precision_attention": False, "enable_gqa": False, "attn_precision": torch.float32}
    assert torch.equal(
        attention_pytorch(q, k, v, **call, **unread, transformer_options=options), attention_pytorch(q, k, v, **call)
    )


@pytest.fixture
def int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the table that runs here and is of low precision, as sage is: queries and keys of eight bits, no bias."""
    from fastvideo_core.attention import backends, dense, select
    from fastvideo_core.attention.requirements import Masks

    def rounded(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True) / 127
        return (x / step).round() * step

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        return dense.sdpa(rounded(q), rounded(k), v, mask, scale)

    rows = {**backends.BACKENDS, "int8": backends.Backend("int8", "INT8", (Masks(),), lambda: attend, error=0.05)}
    for module in (backends, select):
        monkeypatch.setattr(module, "BACKENDS", rows)


@pytest.mark.usefixtures("int8")
def test_a_call_that_wants_full_precision_gets_an_exact_kernel(
    comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the image tokens of Wan 2.1 image-to-video in newer cores, where int8 can give NaN."""
    from comfy.ldm.wan import model as network

    own = network.optimized_attention

    def run(model: Any, tokens: int) -> tuple[Tensor, Any]:
        """tokens: how many keys a call has that wants full precision."""

        def asking(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> Tensor:
            out: Tensor = own(q, k, v, **{**call, "low_precision_attention": k.shape[1] != tokens})
            return out

        monkeypatch.setattr(network, "optimized_attention", asking)
        return run_node(comfy, model, "i2v_clip", steps=2)

    plain, _ = run(load_wan("i2v_clip"), 0)
    everywhere, before = run(attended(comfy, load_wan("i2v_clip"), "sdpa", "int8"), 0)
    ours, report = run(attended(comfy, load_wan("i2v_clip"), "sdpa", "int8"), 257)
    assert [(part.calls, part.exact_backend, part.exact_calls) for part in report.attention] == [(4, "", 0), (4, "sdpa", 4)]
    assert (before.attention[1].calls, before.attention[1].exact_calls) == (8, 0)
    assert "int8 (as asked), 4 calls and 4 by sdpa, where the network wants full precision, in 2 of the network" in report.text()
    assert 1e-5 < relative_error(ours, plain) < relative_error(everywhere, plain) < 0.05


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize(("precise", "same_as"), [(True, "int8"), (False, "sdpa")])
def test_which_kernel_a_call_gets(comfy: Any, load_wan: Any, precise: bool, same_as: str) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call()
    given, expected = (core_options(comfy, load_wan(), name) for name in ("int8", same_as))
    ours = attention_pytorch(q, k, v, **call, low_precision_attention=precise, transformer_options=given)
    assert torch.equal(ours, attention_pytorch(q, k, v, **call, transformer_options=expected))


def test_int8_attention_of_the_file_is_told_where_it_does_not_run(comfy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As newer cores load it: a module without weights in each attention."""
    model = with_own_attention(loaded(save_wan(comfy.model_folder("diffusion_models"), "t2v_own_attention", "t2v")))
    said = "the model's file asks for int8 attention of its own (comfy_attention), which does not run under {}"
    for node, chosen in (
        ("FastVideo Attention", attended(comfy, model, "sdpa", "sdpa")),
        ("FastVideo Sparse Attention", sparse(comfy, model)),
    ):
        assert said.format(node) in run_node(comfy, chosen, steps=1)[1].notes
        with caplog.at_level("INFO", logger="root"):
            run_ksampler(chosen, steps=1)
        assert said.format(node) in caplog.text
    assert not any("comfy_attention" in note for note in run_node(comfy, model, steps=1)[1].notes)


def test_compiling_leaves_int8_attention_of_the_file_as_it_is(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not run under any override, even one that does nothing."""
    from comfy.ldm.modules import attention
    from comfy.patcher_extension import WrappersMP

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_sub_quad)
    model = loaded(save_wan(comfy.model_folder("diffusion_models"), "t2v_own_attention", "t2v"))
    for prepared, expected in ((lambda plain: plain, [True]), (with_own_attention, [False])):
        found: list[bool] = []

        def wrapper(executor: Any, *args: Any, found: list[bool] = found, **kwargs: Any) -> Any:
            found.append(OVERRIDE in args[5])
            return executor(*args, **kwargs)

        chosen = compiled(comfy, prepared(model))
        chosen.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "looks", wrapper)
        run_ksampler(chosen, cfg=1.0, steps=1)
        torch.compiler.reset()
        assert found == expected


def with_own_attention(model: Any) -> Any:
    for block in model.model.diffusion_model.blocks:
        block.self_attn.comfy_attention = nn.Module()
        block.self_attn.comfy_attention.config = {"backend": "int8"}
    return model


def wan_calls() -> list[dict[str, Any]]:
    """The keywords of every call of attention in the Wan networks of this ComfyUI, those with a fixed value as they are there."""
    import comfy.ldm.wan

    (folder,) = comfy.ldm.wan.__path__
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(Path(folder).glob("*.py"))]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [call for call in found if getattr(call.func, "id", "") == "optimized_attention"]
    return [{str(given.arg): getattr(given.value, "value", ...) for given in call.keywords} for call in calls]


def test_it_reads_every_keyword_that_a_wan_network_of_core_gives(comfy: Any, load_wan: Any) -> None:
    """A keyword that core adds fails here, and not in somebody's first step."""
    from comfy.ldm.modules.attention import attention_pytorch

    replayed = wan_calls()
    assert len(replayed) >= 5 and all("heads" in given for given in replayed)
    options = core_options(comfy, load_wan(), "sdpa")
    for given in replayed:
        layout = (bool(given.pop("skip_reshape", False)), bool(given.pop("skip_output_reshape", False)))
        q, k, v, call = core_call(*layout)
        fixed = {name: value for name, value in given.items() if name not in ("heads", "transformer_options")}
        assert ... not in fixed.values(), f"a value of {fixed} is made in the call: give it here"
        ours = attention_pytorch(q, k, v, **call, **fixed, transformer_options=options)
        assert torch.equal(ours, attention_pytorch(q, k, v, **call, **fixed))


def test_a_call_from_outside_the_network_is_refused(comfy: Any, load_wan: Any) -> None:
    from comfy.ldm.modules.attention import attention_pytorch

    q, k, v, call = core_call()
    options = attended(comfy, load_wan()).model_options["transformer_options"]
    with pytest.raises(RequestError, match="cannot tell self- from cross-attention"):
        attention_pytorch(q, k, v, **call, transformer_options=options)


def core_options(host: Any, model: Any, name: str) -> dict[str, Any]:
    """Transformer options inside a call of the network."""
    return {
        **attended(host, model, name, name).model_options["transformer_options"],
        "fastvideo_call": module_of(host, "native.call").NetworkCall(),
    }


def core_call(skip_reshape: bool = False, skip_output_reshape: bool = False) -> tuple[Any, Any, Any, dict[str, Any]]:
    """q, k, v and the other arguments of core's attention functions, of 3 heads of 8 values."""
    q, k, v = normal(1, 2, 10, 24), normal(2, 2, 14, 24), normal(3, 2, 14, 24)
    if skip_reshape:
        q, k, v = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (q, k, v))
    return q, k, v, {"heads": 3, "skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
