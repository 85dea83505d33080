"""Many generations with few loadings: each the same video as by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lora_cases import saved
from magcache_run import flat_table
from many_cases import BACK_AND_FORTH, PAIR, TWO, alone, assert_as_alone, job
from state_cases import THREE, request
from tiny_model import model_of
from torch import nn

from fastvideo_core import (
    DBCacheSettings,
    GuidanceSettings,
    MagCacheSettings,
    PhaseSettings,
    RequestError,
    WanModel,
    apply_lora,
    generate_many,
    group_offload,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention import AttentionSettings
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule
from fastvideo_core.wan.compiled import CompileSettings
from tools.simulated import Allocated

NABLA = NABLASettings(mass=0.5, tile=(1, 2, 2))
MAGCACHE = MagCacheSettings(threshold=0.5, max_skips=1, retention=0.0)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "MagCache": {"cache": with_magcache(MAGCACHE, table=flat_table(request(**TWO).plan(), boundary=0.875))},
    "DBCache": {"cache": with_dbcache(DBCacheSettings(threshold=0.9, first_blocks=1, warmup_steps=1))},
    "attention": {"attention": AttentionSettings(self_attention="sdpa_math")},
    "sparse": {"sparse": SparseSchedule(settings=NABLA, low_noise=NABLA, kernel="gather")},
    "compiled": {"compile": CompileSettings("eager")},
}


@contextmanager
def counted_loadings(model: WanModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Experts, as their weights are moved."""
    moved: list[str] = []
    names = {id(network): name for name, network in model.transformers.items()}
    move = nn.Module.to

    def counting(network: nn.Module, *where: Any) -> nn.Module:
        if id(network) in names:
            moved.append(names[id(network)])
        return move(network, *where)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "to", counting)
        yield moved


@pytest.mark.parametrize("count", [1, 3, 8])
def test_two_experts_are_loaded_once_each_for_any_number_of_jobs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, jobs = model_of(PAIR), [job(PAIR, number, request(**TWO)) for number in range(count)]
    with counted_loadings(model, monkeypatch) as moved:
        many = generate_many(model, jobs)
        outcomes = list(many)
    assert moved == ["high_noise", "high_noise", "low_noise", "low_noise"], "there and back, once each"
    assert many.loadings == 2 and [outcome.name for outcome in outcomes] == [str(number + 1) for number in range(count)]
    assert_as_alone(model, outcomes)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_video_and_its_report_are_those_of_its_single_run(name: str) -> None:
    torch.compiler.reset()
    model, options = model_of(PAIR), OPTIONS[name]
    outcomes = list(generate_many(model, [job(PAIR, number, request(**TWO)) for number in range(3)], **options))
    for outcome in outcomes:
        single = alone(model, outcome.job, **options)
        mine, other = outcome.report, single.report()
        assert mine is not None and torch.equal(outcome.latents, single.latents)
        assert len(mine.step_seconds) == 6 and mine.total_seconds >= sum(mine.step_seconds) > 0
        assert mine.notes[-1] == "2 other generations ran beside it: each loading of an expert was for all of them"
        same = {"step_seconds": (), "total_seconds": 0.0, "peak_memory_bytes": None, "guidance_reason": ""}
        compiled = {"notes": ()} if name == "compiled" else {"notes": mine.notes[:-1]}  # the first one compiles for all
        assert replace(mine, **same, **compiled) == replace(other, **same, **(compiled if name == "compiled" else {}))
        assert all("S" in row.plan for cache in mine.caches for row in cache.phases)
    torch.compiler.reset()


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
@pytest.mark.parametrize("phases", [THREE, BACK_AND_FORTH], ids=["three", "back and forth"])
def test_three_phases_with_every_solver_and_a_gate(phases: Any, solver: str) -> None:
    asked = request(phases=phases, solver=solver, guidance=GuidanceSettings(mode="batched", gate=0.4))
    model = model_of(PAIR)
    many = generate_many(model, [job(PAIR, number, asked) for number in range(2)])
    assert_as_alone(model, list(many))
    assert many.loadings == (2 if phases is THREE else 3)


@pytest.mark.parametrize("kind", ["i2v two experts", "ti2v", "flf2v"])
def test_start_images_and_given_frames_are_each_jobs_own(kind: str) -> None:
    asked = request(**(TWO if "two" in kind else {}))
    model = model_of(kind)
    assert_as_alone(model, list(generate_many(model, [job(kind, number, asked) for number in range(3)])))


def test_jobs_of_other_steps_and_phases_share_what_they_can() -> None:
    model = model_of(PAIR)
    low = PhaseSettings(expert="low_noise", guidance_scale=2.0)
    asked = [request(phases=(low,)), request(**TWO, steps=3), request(phases=BACK_AND_FORTH), request(**TWO, steps=5)]
    many = generate_many(model, [job(PAIR, number, each) for number, each in enumerate(asked)])
    outcomes = list(many)
    assert many.loadings == 3, "high, low, and high again for the one that goes back"
    assert {outcome.name for outcome in outcomes} == {"1", "2", "3", "4"}
    assert_as_alone(model, outcomes)


def test_models_may_work_between_outcomes_and_two_of_many_may_not() -> None:
    model, jobs = model_of(PAIR), [job(PAIR, number, request(**TWO)) for number in range(2)]
    many = generate_many(model, jobs)
    first = next(many)
    assert torch.equal(alone(model, jobs[0]).latents, first.latents) and model.decode(first.latents).isfinite().all()
    with pytest.raises(RequestError, match=r"asked for for others, and several generations hold it on cpu.*close\(\)"):
        next(generate_many(model, [job(PAIR, 1, request(phases=(PhaseSettings(expert="low_noise", guidance_scale=1.0),)))]))
    assert_as_alone(model, [first, *many])


def test_a_lora_that_comes_between_two_turns_is_refused(tmp_path: Path) -> None:
    model = replace(model_of("i2v two experts"), transformers={"high_noise": tiny.i2v(1), "low_noise": tiny.i2v(2)})
    first = job("i2v two experts", 0, request(**TWO))
    generation = model.generate(first.request, first.conditioning, first.size)
    steps = list(generation.turn())
    assert [step.index for step in steps] == [0, 1, 2]
    apply_lora(model.transformers["low_noise"], saved("everything", tmp_path), 0.5)
    with pytest.raises(RequestError, match="The LoRAs of low_noise were changed between two turns"):
        next(generation)


def test_turns_are_the_run_and_may_end_as_plain_steps() -> None:
    model, asked = model_of(PAIR), job(PAIR, 1, request(**TWO))
    whole = alone(model, asked)
    generation = model.generate(asked.request, asked.conditioning, asked.size)
    assert [turn.expert for turn in generation.turns_left] == ["high_noise", "low_noise"]
    list(generation.turn())
    alone(model, asked)  # the networks are free
    assert [step.index for step in generation] == [3, 4, 5] and torch.equal(generation.latents, whole.latents)
    assert list(generation.turn()) == [] and generation.turns_left == ()


def test_group_offloading_moves_its_own_blocks() -> None:
    model = replace(model_of(PAIR), transformers={"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)})
    for network in model.transformers.values():
        group_offload(network, "cpu", 1)
    many = generate_many(model, [job(PAIR, number, request(**TWO)) for number in range(2)])
    assert_as_alone(model_of(PAIR), list(many))
    assert many.loadings == 0


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (["a cat"], r"Each job is 'a cat': give Job\(request="),
        ([replace(job("t2v", 0, request()), name="1"), replace(job("t2v", 1, request()), name="1")], "Two jobs are named '1'"),
    ],
)
def test_what_are_no_jobs_is_refused_at_once(jobs: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        generate_many(model_of("t2v"), jobs)


def peak(model: WanModel, count: int) -> int:
    """Bytes of all tensors that were alive at once, beside the weights and the conditionings."""
    jobs = [replace(job(PAIR, 0, request(**TWO)), name=str(number)) for number in range(count)]
    weights = [tensor for network in model.transformers.values() for tensor in (*network.parameters(), *network.buffers())]
    given = [tensor for each in jobs for tensor in (each.conditioning.positive, each.conditioning.negative) if tensor is not None]
    with Allocated([*weights, *given], device="cpu") as counter:
        for _ in generate_many(model, jobs):
            pass
    return counter.peak


def test_memory_grows_by_the_latents_of_the_jobs_and_their_history() -> None:
    """Wherever these wait; see the next one."""
    model = model_of(PAIR)
    latents = 4 * torch.Size(job(PAIR, 0, request(**TWO)).size.latent_shape(16)).numel()
    peak(model, 1)  # what linear layers are measured with
    one, eight = peak(model, 1), peak(model, 8)
    assert eight - one <= 7 * 4 * latents, "latents, and what UniPC keeps: two clean ones and those before the last step"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device_grows_by_nothing_with_the_jobs() -> None:
    """States between turns, and videos, wait on the CPU."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    networks = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    model = replace(model_of(PAIR), transformers=networks, device=cuda, offload_device=cpu)

    def peak(count: int) -> int:
        jobs = [replace(job(PAIR, 0, request(**TWO)), name=str(number)) for number in range(count)]
        torch.cuda.empty_cache()
        before, seen = torch.cuda.memory_allocated(), []
        many = generate_many(model, jobs, each_step=lambda name, step: seen.append(torch.cuda.max_memory_allocated()))
        outcomes = list(many)
        assert many.loadings == 2 and torch.cuda.memory_allocated() == before
        assert all(places == {"cpu"} for places in ({p.device.type for p in each.parameters()} for each in networks.values()))
        assert_as_alone(model, [replace(outcome, latents=outcome.latents.to(cuda)) for outcome in outcomes])
        return max(seen) - before

    peak(1)  # what a process allocates once
    one, eight = peak(1), peak(8)
    assert eight <= one + 2**16, "a last step's latents, which the loop's caller may still see"
