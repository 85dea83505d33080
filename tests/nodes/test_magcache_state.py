"""FastVideo MagCache from run to run: whatever happened in the last one, the next one is a fresh one."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product
from typing import Any

import pytest
import torch
from caching import attributes, cached, plans, put_table
from sampling import SETTINGS, latent_of, run_chain, run_ksampler, run_node
from torch import Tensor

pytestmark = pytest.mark.usefixtures("direct")


class FailedHereError(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    put_table(comfy, load_wan("t2v", 0))
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))


@contextmanager
def stopped_at(call: int, error: BaseException, *models: Any) -> Iterator[None]:
    """The networks' second blocks raise when they have run so often."""
    left = call

    def hook(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    hooks = [model.model.diffusion_model.blocks[1].register_forward_pre_hook(hook) for model in models]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


class Graph:
    """Two cached MODELs that are kept from run to run, as ComfyUI keeps a node's output."""

    def __init__(self, host: Any, load_wan: Any) -> None:
        self.host = host
        self.high, self.low = (cached(host, load_wan("t2v", seed)) for seed in (0, 1))

    def run(self, how: str, seed: int, steps: int, side: int, mode: str) -> Tensor:
        latent = latent_of("t2v", side=side)
        if how == "ksampler":
            return run_ksampler(self.high, seed=seed, steps=steps, latent=latent)
        if how == "chain":
            switch = sum(level >= 0.875 for level in (5 * (1 - i / steps) / (1 + 4 * (1 - i / steps)) for i in range(steps)))
            return run_chain(self.high, self.low, "t2v", switch, steps, latent=latent, seed=seed)
        low = self.low if how == "two experts" else None
        return run_node(self.host, self.high, "t2v", low, seed=seed, steps=steps, latent=latent, guidance_mode=mode)[0]


RUNS = [
    ("ksampler", 0, 6, 8, "batched"), ("chain", 1, 8, 4, "batched"), ("one expert", 2, 11, 8, "sequential"),
    ("two experts", 0, 8, 4, "batched"), ("two experts", 1, 6, 8, "sequential"),
]  # fmt: skip
"""How, seed, steps, side of the latents, guidance mode."""


def test_runs_after_interrupts_errors_and_changes_are_each_a_fresh_one(comfy: Any, load_wan: Any) -> None:
    """Every one after every one, which ended early in every way."""
    from comfy.model_management import InterruptProcessingException

    kept, fresh = Graph(comfy, load_wan), [Graph(comfy, load_wan).run(*settings) for settings in RUNS]
    before = [attributes(model) for model in (kept.high, kept.low)]
    ends = cycle(product((InterruptProcessingException, FailedHereError), (1, 2, 3)))
    for first, settings in product(RUNS, RUNS):
        error, call = next(ends)
        with pytest.raises(error), stopped_at(call, error(), kept.high, kept.low):
            kept.run(*first)
        assert torch.equal(kept.run(*settings), fresh[RUNS.index(settings)])
    assert [attributes(model) for model in (kept.high, kept.low)] == before


@pytest.mark.parametrize("call", [1, 2, 4])
def test_what_a_stopped_run_held_is_freed(comfy: Any, load_wan: Any, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.model_management import InterruptProcessingException

    from fastvideo_core.step_cache import MagCacheSession

    sessions: list[MagCacheSession] = []
    begin = MagCacheSession.begin

    def seen(session: MagCacheSession, step: int, branches: Any) -> None:
        sessions.append(session)
        begin(session, step, branches)

    monkeypatch.setattr(MagCacheSession, "begin", seen)
    graph = Graph(comfy, load_wan)
    with pytest.raises(InterruptProcessingException), stopped_at(call, InterruptProcessingException(), graph.high, graph.low):
        graph.run("two experts", 0, 12, 8, "batched")
    assert max(session.peak_bytes for session in sessions) > 0 or call == 1
    assert [session.held_bytes for session in sessions] == [0] * len(sessions)


def test_the_high_noise_experts_residuals_are_freed_before_the_low_noise_weights_come(
    comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import sampler_helpers

    from fastvideo_core.step_cache import MagCacheSession

    held: list[int] = []
    sessions: dict[int, MagCacheSession] = {}
    begin, prepare = MagCacheSession.begin, sampler_helpers.prepare_sampling

    def seen(session: MagCacheSession, step: int, branches: Any) -> None:
        sessions[id(session)] = session
        begin(session, step, branches)

    def loading(*args: Any, **kwargs: Any) -> Any:
        held.append(sum(session.held_bytes for session in sessions.values()))
        return prepare(*args, **kwargs)

    monkeypatch.setattr(MagCacheSession, "begin", seen)
    monkeypatch.setattr(sampler_helpers, "prepare_sampling", loading)
    graph = Graph(comfy, load_wan)
    graph.run("two experts", 0, SETTINGS["steps"], 8, "batched")
    assert held == [0, 0]
    assert all(session.peak_bytes > 0 for session in sessions.values()) and len(sessions) == 2


def test_one_model_in_two_samplers_of_a_graph(comfy: Any, load_wan: Any) -> None:
    """Each has its own schedule and its own plan."""
    model = cached(comfy, load_wan())
    first, second = run_node(comfy, model, steps=8), run_node(comfy, model, steps=11, shift=3.0)
    assert torch.equal(run_node(comfy, cached(comfy, load_wan()), steps=11, shift=3.0)[0], second[0])
    assert [len(plans(report)["single", "positive"]) for _, report in (first, second)] == [8, 11]
