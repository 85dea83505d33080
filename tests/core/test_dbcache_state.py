"""DBCache and cache-dit from run to run: nothing leaks between experts or generations, nothing stays on the networks."""

import gc
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from dbcache_run import SETTINGS, TWO, Run, deep, two_experts
from magcache_run import HIDDEN_BYTES, request
from torch import Tensor, nn

from fastvideo_core.step_cache import CacheDiT, DBCache
from fastvideo_core.wan.loading import group_offload

pytest.importorskip("cache_dit", reason="cache-dit (optional) is not installed")
every_cache = pytest.mark.parametrize("cache", [DBCache, CacheDiT])
SOMETIMES = replace(SETTINGS, threshold=0.015)


class Interrupt(BaseException):
    """As ComfyUI's: no Exception."""


def surface(network: nn.Module) -> list[tuple[str, list[str], int]]:
    """Every module of a network: its attributes, hooks among them, and which function its forward is."""
    return [
        (name, sorted(set(vars(module)) | set(dir(type(module)))), id(module.forward.__func__))  # type: ignore[union-attr]
        for name, module in network.named_modules()
    ]


@every_cache
def test_a_second_run_is_the_first_one_again(cache: type[Any]) -> None:
    run = Run(TWO, two_experts(), SOMETIMES, cache=cache)
    first, second = run.latents()[-1], run.latents()[-1]
    assert "S" in run.actions()[0] and "S" in run.actions()[1]
    assert torch.equal(first, second)
    assert torch.equal(first, Run(TWO, two_experts(), SOMETIMES, cache=cache).latents()[-1])


@every_cache
@pytest.mark.parametrize("end", ["finished", "closed", "failed", "failed in a block"])
def test_nothing_is_left_when_a_run_ends(cache: type[Any], end: str) -> None:
    networks = two_experts()
    before = {expert: (network.blocks, surface(network), list(network.state_dict())) for expert, network in networks.items()}
    run = Run(TWO, networks, SOMETIMES, cache=cache)
    steps = run.steps()
    for _ in range(8):
        next(steps)
    assert run.cache.held_bytes > 0
    if end == "failed":
        with pytest.raises(Interrupt):
            steps.throw(Interrupt())
    elif end == "failed in a block":
        handle = networks["low_noise"].blocks[0].register_forward_pre_hook(_fail)
        with pytest.raises(Interrupt):
            list(steps)
        handle.remove()
    elif end == "closed":
        steps.close()
    else:
        list(steps)
    assert run.cache.held_bytes == 0
    for expert, network in networks.items():
        assert (network.blocks, surface(network), list(network.state_dict())) == before[expert]


def _fail(*_: object) -> None:
    raise Interrupt


@every_cache
def test_the_memory_is_free_at_once_and_not_when_the_collector_comes_by(cache: type[Any]) -> None:
    def tokens() -> int:
        return sum(issubclass(type(thing), Tensor) and thing.shape[-2:] == (18, 24) for thing in gc.get_objects())

    run = Run(request(8, mode="batched"), {"single": deep()}, SETTINGS, cache=cache)
    gc.collect()
    before = tokens()
    gc.disable()
    try:
        steps = run.steps()
        for _ in range(7):
            next(steps)
        held = tokens()
        list(steps)
        assert held > before
        assert tokens() == before
    finally:
        gc.enable()


def test_a_branch_holds_what_the_first_blocks_added_and_each_taylor_term() -> None:
    for order, states in [(0, 2), (1, 3), (2, 4)]:
        run = Run(request(8, mode="batched"), {"single": deep()}, replace(SETTINGS, warmup_steps=6, taylor_order=order))
        run.latents()
        assert run.cache.peak_bytes == 2 * states * HIDDEN_BYTES


def test_the_report_counts_what_cache_dit_holds() -> None:
    run = Run(request(8, mode="batched"), {"single": deep()}, replace(SETTINGS, taylor_order=0), cache=CacheDiT)
    run.latents()
    context = 2 * 304 * 24 * 4  # of the context, the folded text, it keeps what the blocks added to it, which is nothing
    assert run.cache.report().peak_bytes == 2 * 2 * HIDDEN_BYTES + context


def test_cache_dit_leaves_its_own_classes_loggers_and_the_screen_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from cache_dit.caching import FakeDiffusionPipeline

    levels = [handler.level for handler in logging.getLogger("cache_dit.summary").handlers]
    before = dict(vars(FakeDiffusionPipeline))
    run = Run(TWO, two_experts(), SOMETIMES, cache=CacheDiT)
    run.latents()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert dict(vars(FakeDiffusionPipeline)) == before
    assert levels == [handler.level for handler in logging.getLogger("cache_dit.summary").handlers]
    assert logging.ERROR not in levels


@every_cache
def test_changed_settings_take_effect_on_the_same_network(cache: type[Any]) -> None:
    networks = {"single": deep()}
    for threshold, order in [(0.015, 0), (0.5, 0), (0.5, 1), (0.001, 1)]:
        settings = replace(SETTINGS, threshold=threshold, taylor_order=order)
        fresh = Run(request(10), {"single": deep()}, settings, cache=cache).latents()[-1]
        assert torch.equal(Run(request(10), networks, settings, cache=cache).latents()[-1], fresh)


CONFIGS = [
    (request(6, mode="batched"), tiny.SHAPE),
    (request(7, mode="sequential", seed=3), tiny.SHAPE),
    (request(6, mode="batched", gate=0.5), (1, 16, 3, 6, 4)),
    (request(9, 1.0), (1, 16, 2, 4, 4)),
    (request(5, mode="sequential", seed=8), (2, 16, 1, 4, 6)),
]


def disturbed(run: Run, network: nn.Module, how: str, moment: int) -> None:
    """A run that ends early: closed after `moment` steps, or thrown out of its `moment`-th call."""
    if how == "close":
        steps = run.steps()
        for _ in range(moment):
            next(steps)
        steps.close()
        return
    calls = iter(range(100))

    def fail(*_: object) -> None:
        if next(calls) == moment - 1:
            raise Interrupt if how == "interrupt" else RuntimeError("in a block")

    handle = network.blocks[0].register_forward_hook(fail)
    with pytest.raises((Interrupt, RuntimeError)):
        run.latents()
    handle.remove()


@every_cache
def test_runs_with_changes_interrupts_and_errors_in_between_are_each_a_fresh_one(cache: type[Any]) -> None:
    """Every one after every one, each ended early in every way."""
    expected = [Run(asked, {"single": deep()}, SOMETIMES, shape=shape, cache=cache).latents()[-1] for asked, shape in CONFIGS]
    network = deep()
    runs = [Run(asked, {"single": network}, SOMETIMES, shape=shape, cache=cache) for asked, shape in CONFIGS]
    ends = itertools.cycle(itertools.product((1, 2, 3, 4), ("close", "interrupt", "error")))
    for before, after in itertools.product(range(len(runs)), repeat=2):
        moment, how = next(ends)
        disturbed(runs[before], network, how, moment)
        assert torch.equal(runs[after].latents()[-1], expected[after])


@every_cache
def test_blocks_that_visit_the_device_give_the_same_video_and_may_be_skipped(cache: type[Any]) -> None:
    plain, offloaded = deep(), deep()
    group_offload(offloaded, torch.device("cpu"), 1)
    runs = [Run(request(10), {"single": network}, SETTINGS, cache=cache) for network in (plain, offloaded)]
    assert torch.equal(runs[0].latents()[-1], runs[1].latents()[-1])
    assert runs[1].actions() == ["CC" + "S" * 8]


@every_cache
def test_compiled_blocks_give_the_same_video_and_compile_once(cache: type[Any]) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    plain, compiled = deep(), deep()
    torch.compiler.reset()
    compiled.compile_repeated_blocks(backend=backend, fullgraph=True)
    runs = [Run(request(10, mode="batched"), {"single": network}, SOMETIMES, cache=cache) for network in (plain, compiled)]
    videos = [run.latents()[-1] for run in runs]
    torch.compiler.reset()
    assert tiny.relative_error(*videos) < 1e-5
    assert len(graphs) == 1
