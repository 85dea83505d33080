"""Blocks compiled for one generation: the same video, nothing compiled anew after two steps, and nothing left behind."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny
import tiny_model
import torch
from magcache_run import flat_table
from torch import Tensor

from fastvideo_core import (
    AttentionSettings,
    CompileSettings,
    DBCacheSettings,
    GuidanceSettings,
    MagCacheSettings,
    RequestError,
    SamplingRequest,
    WanModel,
    group_offload,
    with_cache_dit,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule
from fastvideo_core.wan.generation import Generation

EAGER = CompileSettings(backend="eager")  # traces and guards as any other, and needs no compiler
STEPS = 6
SPARSE = SparseSchedule(
    settings=NABLASettings(mass=0.5, tile=(1, 2, 2), window=None), dense_steps=1, dense_layers=1, kernel="gather"
)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def model() -> WanModel:
    return model_of(tiny.t2v())


def model_of(network: Any, **changes: Any) -> WanModel:
    return replace(tiny_model.model_of("t2v"), transformers={"single": network}, **changes)


def request(mode: str = "batched", **changes: Any) -> SamplingRequest:
    settings = GuidanceSettings(mode=mode, gate=changes.pop("gate", 1.0))
    return SamplingRequest(steps=STEPS, shift=5.0, guidance_scale=4.0, guidance=settings, solver="euler", **changes)


def generated(model: WanModel, asked: SamplingRequest, prompt: str = "a cat", **options: Any) -> tuple[Tensor, Generation]:
    size = tiny_model.small(model)
    generation = model.generate(asked, model.condition(prompt, "blurry", size), size, **options)
    *_, last = generation
    return last.latents, generation


def account(generation: Generation) -> tuple[int, int]:
    """Graphs that were compiled, and the last call of the network in which one was."""
    assert generation.working.compiled is not None
    return generation.working.compiled.account.graphs, generation.working.compiled.account.last


def magcache() -> Any:
    return with_magcache(MagCacheSettings(threshold=9, max_skips=1, retention=0.3), table=flat_table(request().plan()))


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing else": {},
    "attention": {"attention": AttentionSettings(self_attention="sdpa_math")},
    "MagCache": {"cache": magcache()},
    "DBCache": {"cache": with_dbcache(DBCacheSettings(threshold=0.5, first_blocks=1, warmup_steps=1))},
    "cache-dit": {"cache": with_cache_dit(DBCacheSettings(threshold=0.5, first_blocks=1, warmup_steps=1))},
    "sparse attention whose tiles change": {"sparse": SPARSE},
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("nothing else", "batched"), *((name, ("sequential", "batched")[i % 2]) for i, name in enumerate(OPTIONS))],
)
def test_nothing_is_compiled_anew_after_two_steps_nor_in_the_next_generation(model: WanModel, name: str, mode: str) -> None:
    asked, options = request(mode), OPTIONS[name]
    plain, _ = generated(model, asked, **options)
    first, compiling = generated(model, asked, compile=EAGER, **options)
    second, compiled = generated(model, asked, compile=EAGER, **options)
    graphs, last = account(compiling)
    assert graphs > 0 and last <= (2 if mode == "batched" else 4)
    assert account(compiled) == (0, 0)
    assert tiny.relative_error(first, plain) < 1e-5 and torch.equal(first, second)
    assert torch.equal(generated(model, asked, **options)[0], plain)


def test_the_second_expert_takes_the_first_ones_code(model: WanModel) -> None:
    experts = replace(model, transformers={"high_noise": tiny.t2v(0), "low_noise": tiny.t2v(1)})
    asked = request(boundary=0.875, low_noise_guidance_scale=3.0)
    video, generation = generated(experts, asked, compile=EAGER)
    assert account(generation) == (1, 1)
    assert tiny.relative_error(video, generated(experts, asked)[0]) < 1e-5


def test_a_text_of_another_length_and_a_call_of_one_branch_are_compiled_once(model: WanModel) -> None:
    longer = " ".join(["a cat sits on a mat and looks at the rain"] * 4)
    graphs = [
        account(generated(model, request(gate=gate), prompt, compile=EAGER)[1])
        for prompt, gate in (("a cat", 1.0), ("a dog", 1.0), (longer, 1.0), ("a cat", 1.0), ("a cat", 0.5), ("a cat", 0.5))
    ]
    assert graphs == [(1, 1), (0, 0), (1, 1), (0, 0), (1, STEPS // 2 + 1), (0, 0)]


@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_group_offloading(model: WanModel, blocks_per_group: int) -> None:
    plain, _ = generated(model, request())
    group_offload(model.transformers["single"], torch.device("cpu"), blocks_per_group)
    video, generation = generated(model, request(), compile=EAGER)
    assert account(generation)[1] == 1
    assert tiny.relative_error(video, plain) < 1e-5


def test_nothing_is_left_behind_when_it_is_closed_early(model: WanModel) -> None:
    network = model.transformers["single"]
    before = [dict(vars(block)) for block in network.blocks]
    size = tiny_model.small(model)
    generation = model.generate(request(), model.condition("a cat", "", size), size, compile=EAGER)
    next(generation)
    assert all(block._compiled_call_impl is not None for block in network.blocks)
    generation.close()
    assert [dict(vars(block)) for block in network.blocks] == before


def test_blocks_that_are_compiled_already_are_refused(model: WanModel) -> None:
    network = model.transformers["single"]
    network.compile_repeated_blocks(backend="eager")
    with pytest.raises(RequestError, match="blocks are compiled already"):
        generated(model, request(), compile=EAGER)
    assert all(block._compiled_call_impl is not None for block in network.blocks)


def test_a_missing_compiler_is_told_before_the_run(model: WanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    size = tiny_model.small(model)
    with pytest.raises(RequestError, match=r"inductor is compiled for the CPU, and there is no C\+\+ compiler on the path"):
        model.generate(request(), model.condition("a cat", "", size), size, compile=CompileSettings())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_inductors_video_is_the_plain_one(model: WanModel) -> None:
    plain, _ = generated(model, request())
    video, generation = generated(model, request(), compile=CompileSettings())
    assert account(generation) == (1, 1)
    assert tiny.relative_error(video, plain) < 1e-5
    assert "blocks compiled by inductor: 1 graph, in call 1 of 6 of the network" in generation.report().text()
