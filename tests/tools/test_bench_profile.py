"""The profile's parts are the whole, its FLOPs are those that torch counts, and it leaves the network as it was."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastvideo_core.wan.loading import load_transformer
from tools.bench import profile, profile_page
from tools.bench.attribution import PARTS, attributed
from tools.bench.contenders import PROMPT_TOKENS, Task, bare_calls, engine
from tools.bench.flops import computed_flops, flops_of_call
from tools.bench.peak import Peak, matmul_peak
from tools.bench.sizes import SIZES, Size, write_weights

CPU = torch.device("cpu")
TINY = Size(title="tiny", heads=1, ffn_dim=96, layers=2, text_dim=24, latents=(2, 4, 6), dtype=torch.float32)
IMAGE_TOKENS = 257


def network(**more: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=128, ffn_dim=96, num_layers=2, text_dim=24, freq_dim=32, **more
    )


@torch.no_grad()
def counted(network: WanTransformer3DModel, channels: int, text_rows: int, image: torch.Tensor | None = None) -> int:
    """By torch's own counter, with attention as the matrix products that it is."""
    latents, text = torch.randn(2, channels, 2, 4, 6), torch.randn(2, text_rows, 24)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(latents, torch.full((2,), 500.0), text, image, return_dict=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("text_rows", [512, 96])
def test_formula_is_what_torch_counts_for_text_whole_and_folded(text_rows: int) -> None:
    assert flops_of_call(network(), (2, 16, 2, 4, 6), text_rows) == counted(network(), 16, text_rows)


def test_formula_is_what_torch_counts_with_image_tokens() -> None:
    i2v = network(in_channels=36, image_dim=40, added_kv_proj_dim=128)
    expected = counted(i2v, 36, 512, torch.randn(2, IMAGE_TOKENS, 40))
    assert flops_of_call(i2v, (2, 36, 2, 4, 6), 512, IMAGE_TOKENS) == expected


def test_what_torchs_counter_does_not_know_is_counted_too() -> None:
    x, weight = torch.randn(2, 5, 24), torch.randn(32, 24)
    assert computed_flops(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")) == 2 * 10 * 24 * 32
    q, k = torch.randn(1, 2, 40, 64), torch.randn(1, 2, 50, 64)
    assert computed_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k)) == 2 * 2 * 2 * 40 * 50 * 64


def test_the_engine_computes_less_than_the_plain_network_and_all_that_folding_leaves(tmp_path: Path) -> None:
    task, model = Task(TINY, 3, CPU), load_transformer(write_weights(TINY, tmp_path), torch.float32)
    plain = flops_of_call(model, (2, *TINY.shape[1:]), 512)
    assert computed_flops(bare_calls(task, model, branches=2)) == 3 * plain
    without_text = flops_of_call(model, (2, *TINY.shape[1:]), 0)
    assert without_text < computed_flops(engine(task, model, "batched")) / 3 < plain


@pytest.mark.parametrize("contender", ["plain", "engine"])
def test_parts_are_the_whole_and_leave_no_trace(tmp_path: Path, contender: str) -> None:
    task, model = Task(TINY, 3, CPU), load_transformer(write_weights(TINY, tmp_path), torch.float32)
    run = bare_calls(task, model, branches=2) if contender == "plain" else engine(task, model, "batched")
    kernel = torch.nn.functional.scaled_dot_product_attention
    parts = attributed(run, model, CPU)
    assert tuple(parts) == PARTS
    assert all(seconds > 0 for seconds in parts.values())
    assert torch.nn.functional.scaled_dot_product_attention is kernel
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parts_sum_up_to_the_seconds_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts how often it is read, every part is a whole number, and nothing is lost or counted twice."""
    model, ticks = load_transformer(write_weights(TINY, tmp_path), torch.float32), iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    parts = attributed(bare_calls(Task(TINY, 3, CPU), model, branches=2), model, CPU)
    calls, blocks, moments = 3, 3 * TINY.layers, 2 * (3 + 3 * TINY.layers * 9)
    assert sum(parts.values()) == moments + 1
    assert parts["self-attention, projections"] == 4 * blocks
    assert parts["self-attention, kernel"] == parts["cross-attention"] == parts["feed-forward"] == blocks
    assert parts["outside the transformer"] == calls + 1


def test_a_kernel_that_is_not_torchs_is_not_taken_for_something_else(tmp_path: Path) -> None:
    model = load_transformer(write_weights(TINY, tmp_path), torch.float32)
    model.blocks[0].attn1.processor = lambda attn, x, *_: attn.to_out[0](x)
    with pytest.raises(RuntimeError, match="6 calls of self-attention used torch's scaled_dot_product_attention 3 times"):
        attributed(bare_calls(Task(TINY, 3, CPU), model, branches=2), model, CPU)


def test_the_page_shows_parts_shares_and_utilisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROMPT_TOKENS < 512
    assert matmul_peak(CPU, torch.float32).rate > 0
    written = {}
    monkeypatch.setattr(profile_page, "OUTPUT", tmp_path)
    monkeypatch.setattr(profile_page, "update_page", written.__setitem__)
    parts = dict.fromkeys(PARTS, 0.001)
    own = [
        profile.Profile(name=name, parts=parts, seconds=0.005, hooks=0.04, asked=2e9, computed=flops)
        for name, flops in ((profile.PLAIN, 2e9), (profile.ENGINE, 1e9))
    ]
    profile_page.report(own, Peak(800e9, "torch.matmul, 8 x 8 x 8"), "cpu", "demo", 10, 3, "command")
    page = written["profile cpu demo"]
    assert str(SIZES["demo"]) in page
    assert "| cross-attention | 1.00 | 14.3 % | 1.00 | 14.3 % |" in page
    assert "| whole step without clocks | 5.00 | clocks +4.0 % | 5.00 | clocks +4.0 % |" in page
    assert "| GFLOP/s, share of the peak | 400.0 | 50.0 % | 200.0 | 25.0 % |" in page
    assert "| model-FLOPs utilisation |  | 50.0 % |  | 50.0 % |" in page
    assert (tmp_path / "profile-cpu-demo.json").is_file()
