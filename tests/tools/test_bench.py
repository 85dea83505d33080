"""The benchmark compares like with like, and its page keeps what others wrote."""

from pathlib import Path

import pytest
import torch

from tools.bench.clock import timed
from tools.bench.contenders import Task, engine_contenders
from tools.bench.measure import Result, measure, quartiles
from tools.bench.page import markdown_table, to_the_faster, update_page
from tools.bench.sizes import SIZES, Size, write_weights

CPU = torch.device("cpu")
TINY = Size(title="tiny", heads=1, ffn_dim=64, layers=1, text_dim=16, latents=(1, 4, 4), dtype=torch.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(TINY, tmp_path_factory.mktemp("bench"))


def test_every_contender_makes_the_same_video(weights: Path) -> None:
    results = measure(engine_contenders(Task(TINY, 3, CPU), weights), rounds=2, device=CPU)
    assert [result.name for result in results if result.difference is None] == [
        "bare calls, both branches", "bare calls, both branches, fast linears", "bare calls, branch by branch",
    ]  # fmt: skip
    assert all(result.difference < 1e-5 for result in results if result.difference is not None)
    assert all(len(result.seconds) == len(result.ratios) == len(result.outside) == 2 for result in results)
    assert "| engine, batched |" in markdown_table(results, 3, "facts", "command", "machine")


def test_bare_calls_are_the_calls_of_the_engine(weights: Path) -> None:
    calls: dict[str, list[torch.Size]] = {}
    for contender in engine_contenders(Task(TINY, 3, CPU), weights):
        seen = calls.setdefault(contender.name, [])
        hook = contender.network.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append((args or list(kwargs.values()))[0].shape), with_kwargs=True
        )
        contender.run()
        hook.remove()
    assert calls["engine, batched"] == calls["bare calls, both branches"] == [torch.Size([2, *TINY.shape[1:]])] * 3
    assert calls["engine, sequential"] == calls["bare calls, branch by branch"] == [torch.Size(TINY.shape)] * 6
    assert calls["diffusers WanPipeline"] == calls["bare calls, branch by branch"]


def test_time_inside_the_network_is_part_of_the_whole_and_leaves_no_hook(weights: Path) -> None:
    contender = engine_contenders(Task(TINY, 3, CPU), weights)[1]
    seconds, inside = timed(contender.run, contender.network, CPU)
    assert 0 < inside < seconds
    assert not contender.network._forward_hooks
    assert not contender.network._forward_pre_hooks


def test_the_engine_is_held_against_the_faster_one_in_each_round() -> None:
    seconds = {
        "engine, batched": (1.0, 2.0, 3.0),
        "diffusers WanPipeline": (4.0, 4.0, 10.0),
        "ComfyUI KSampler": (5.0, 2.5, 12.0),
    }
    results = [
        Result(name=name, floor=name, seconds=own, ratios=(), outside=(), peak_bytes=0, difference=None)
        for name, own in seconds.items()
    ]
    assert "in each round: **0.300** (0.275 - 0.550)" in to_the_faster(results)  # of 1 / 4, 2 / 2.5 and 3 / 10


def test_a_block_of_the_page_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- a -->\nold\n<!-- end of a -->\n\ntext\n")
    update_page("a", "new", page)
    assert page.read_text() == "# Title\n\n<!-- a -->\nnew\n<!-- end of a -->\n\ntext\n"
    update_page("b", "more", page)
    assert page.read_text() == "# Title\n\n<!-- a -->\nnew\n<!-- end of a -->\n\ntext\n\n<!-- b -->\nmore\n<!-- end of b -->\n"


def test_quartiles_of_a_single_round_are_that_round() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_the_large_sizes_are_those_of_wan_2_1() -> None:
    size = SIZES["1.3B-480p"]
    assert (128 * size.heads, size.layers, size.ffn_dim, size.text_dim) == (1536, 30, 8960, 4096)
    assert (size.shape, size.tokens) == ((1, 16, 21, 60, 104), 32760)
    size = SIZES["14B-480p"]
    assert (128 * size.heads, size.layers, size.ffn_dim, size.tokens) == (5120, 40, 13824, 32760)
    assert SIZES["14B-720p"].tokens == 75600
