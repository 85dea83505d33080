"""MagCache from run to run: nothing leaks between experts or generations, nothing stays, and it composes with what moves or
compiles the blocks."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from magcache_run import HIDDEN_BYTES, SETTINGS, Run, dense, recorded_blocks, request
from torch import Tensor

from fastvideo_core import Guidance, Schedule
from fastvideo_core.step_cache import CachedExperts, MagCache
from fastvideo_core.wan.loading import group_offload

TWO = request(10, 4.0, low_noise_guidance_scale=3.0, boundary=0.8)
"""Shift 5, boundary 0.8: levels 1, .978, .952, .921, .882, .833 | .769, ...: 6 high-noise and 4 low-noise steps."""


def two_experts() -> dict[str, WanTransformer3DModel]:
    return {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}


def test_each_expert_has_a_session_of_its_own() -> None:
    networks = two_experts()
    run = Run(TWO, networks, tiny.conditioning())
    with recorded_blocks(networks["high_noise"]) as high, recorded_blocks(networks["low_noise"]) as low:
        run.latents()
    assert [part.actions("positive") for part in run.cache.done.phases] == ["CSSCSS", "CSSC"]
    assert run.cache.done.phases[1].decisions[0].reason == "first step of the phase"
    assert (len(high), len(low)) == (2 * 2, 2 * 2)


def test_two_equal_experts_have_residuals_of_their_own() -> None:
    """The switch must not carry a residual over, even where nobody would notice by its shape: the low-noise phase is the same
    as one that starts with the high-noise phase's last latents."""
    networks, condition = two_experts(), tiny.conditioning()
    run = Run(TWO, networks, condition)
    before, *_, after = list(run.steps())[5:]
    schedule = TWO.plan()
    low = Schedule(schedule.sigmas, schedule.phases[1:])
    cache = MagCache(low, run.cache.table, SETTINGS)
    experts = CachedExperts(tiny.experts(networks, condition), low, cache)
    guidance, latents = Guidance(low, TWO.guidance), before.latents
    with experts.active(low.phases[0]) as denoiser:
        for i in low.phases[0].steps:
            sigma, target = low.sigmas[i : i + 2]
            latents = latents + (target - sigma) * guidance.velocity(denoiser, latents, sigma)
    assert torch.equal(latents, after.latents)


def test_a_second_run_is_the_first_one_again() -> None:
    run = Run(TWO, two_experts(), tiny.conditioning())
    first, second = run.latents(), run.latents()
    assert torch.equal(first, second)
    assert torch.equal(first, Run(TWO, two_experts(), tiny.conditioning()).latents())


class Interrupt(BaseException):
    """As ComfyUI's: no Exception."""


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_run_after_an_interrupted_one_is_a_fresh_one(after: int) -> None:
    networks = two_experts()
    run = Run(TWO, networks, tiny.conditioning())
    steps = run.steps()
    for _ in range(after):
        next(steps)
    steps.close()
    assert torch.equal(run.latents(), Run(TWO, two_experts(), tiny.conditioning()).latents())


@pytest.mark.parametrize("error", [Interrupt, RuntimeError])
def test_a_run_after_one_that_failed_in_a_block_is_a_fresh_one(error: type[BaseException]) -> None:
    networks = two_experts()
    run = Run(TWO, networks, tiny.conditioning())
    calls = iter(range(100))

    def fail(*_: object) -> None:
        if next(calls) == 1:
            raise error("in the middle of a step")

    handle = networks["high_noise"].blocks[1].register_forward_hook(fail)
    with pytest.raises(error):
        run.latents()
    handle.remove()
    assert torch.equal(run.latents(), Run(TWO, two_experts(), tiny.conditioning()).latents())


@pytest.mark.parametrize("end", ["finished", "closed", "failed"])
def test_nothing_is_left_when_a_run_ends(end: str) -> None:
    networks = two_experts()
    blocks = {expert: network.blocks for expert, network in networks.items()}
    keys = {expert: list(network.state_dict()) for expert, network in networks.items()}
    run = Run(TWO, networks, tiny.conditioning())
    steps = run.steps()
    for _ in range(8):
        next(steps)
    assert run.cache.held_bytes == 2 * HIDDEN_BYTES
    if end == "failed":
        with pytest.raises(Interrupt):
            steps.throw(Interrupt())
    elif end == "closed":
        steps.close()
    else:
        list(steps)
    assert run.cache.held_bytes == 0
    assert all(network.blocks is blocks[expert] for expert, network in networks.items())
    assert {expert: list(network.state_dict()) for expert, network in networks.items()} == keys


CONFIGS = [
    (request(6, mode="batched"), tiny.SHAPE),
    (request(7, mode="sequential", seed=3), tiny.SHAPE),
    (request(6, mode="batched", gate=0.5), (1, 16, 3, 6, 4)),
    (request(9, 1.0), (1, 16, 2, 4, 4)),
    (request(5, mode="sequential", seed=8), (2, 16, 1, 4, 6)),
]


def disturbed(run: Run, network: WanTransformer3DModel, how: str, moment: int) -> None:
    """A run that ends early: closed after `moment` steps, or thrown out of its `moment`-th block."""
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

    handle = network.blocks[1].register_forward_hook(fail)
    with pytest.raises((Interrupt, RuntimeError)):
        run.latents()
    handle.remove()


def test_runs_with_changes_interrupts_and_errors_in_between_are_each_a_fresh_one() -> None:
    """Every one after every one, each ended early in every way."""
    expected = [Run(asked, {"single": tiny.t2v()}, tiny.conditioning(), shape).latents() for asked, shape in CONFIGS]
    network = tiny.t2v()
    runs = [Run(asked, {"single": network}, tiny.conditioning(), shape) for asked, shape in CONFIGS]
    ends = itertools.cycle(itertools.product((1, 2), ("close", "interrupt", "error")))
    for before, after in itertools.product(range(len(runs)), repeat=2):
        moment, how = next(ends)
        disturbed(runs[before], network, how, moment)
        assert torch.equal(runs[after].latents(), expected[after])


@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_blocks_that_visit_the_device_give_the_same_video_and_may_be_skipped(blocks_per_group: int) -> None:
    plain, offloaded = tiny.t2v(), tiny.t2v()
    group_offload(offloaded, torch.device("cpu"), blocks_per_group)
    runs = [Run(request(10), {"single": network}, tiny.conditioning()) for network in (plain, offloaded)]
    assert torch.equal(runs[0].latents(), runs[1].latents())
    assert runs[1].cache.done.phases[0].count("positive", "skip") == 6


def test_compiled_blocks_give_the_same_video_and_compile_once() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    plain, compiled = tiny.t2v(), tiny.t2v()
    torch.compiler.reset()
    compiled.compile_repeated_blocks(backend=backend, fullgraph=True)
    runs = [Run(request(10, mode="batched"), {"single": network}, tiny.conditioning()) for network in (plain, compiled)]
    videos = [run.latents() for run in runs]
    torch.compiler.reset()
    assert tiny.relative_error(*videos) < 1e-5
    assert len(graphs) == 1


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m"])
def test_every_solver_runs_one_call_per_step_through_the_cache(solver: str) -> None:
    run = Run(replace(request(10), solver=solver), {"single": tiny.t2v()}, tiny.conditioning())
    assert run.latents().isfinite().all()
    assert run.cache.done.phases[0].actions("positive") == "CCSSCSSCSS"


def test_a_cache_that_stands_aside_leaves_the_blocks_alone() -> None:
    network = tiny.t2v()
    run = Run(request(4, 1.0), {"single": network}, tiny.conditioning())
    with recorded_blocks(network) as blocks:
        latents = run.latents()
    assert len(blocks) == 2 * 4
    assert torch.equal(latents, dense(request(4, 1.0), {"single": network}, tiny.conditioning()))
    assert run.cache.done.text().startswith("MagCache stands aside: a run of 4 steps without guidance")
