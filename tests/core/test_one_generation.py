"""A network that is at work belongs to one generation, and one that was left is over at once."""

import gc
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import tiny
import tiny_transformer as files
import torch
from magcache_run import flat_table
from tiny_model import NETWORKS, model_of, small
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
    apply_lora,
    group_offload,
    with_cache_dit,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule, kernel_of, measured
from fastvideo_core.step_cache import weights_hash
from fastvideo_core.wan.generation import Generation
from fastvideo_core.wan.loading import remove_loras

REQUEST = SamplingRequest(steps=6, shift=5.0, guidance_scale=3.0, solver="euler", guidance=GuidanceSettings(mode="batched"))
TWO_EXPERTS = SamplingRequest(steps=6, shift=5.0, guidance_scale=3.0, boundary=0.9, solver="euler")
DBCACHE = DBCacheSettings(threshold=0.2, first_blocks=1, warmup_steps=2)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "MagCache": {"cache": with_magcache(MagCacheSettings(threshold=0.2, max_skips=2), table=flat_table(REQUEST.plan()))},
    "DBCache": {"cache": with_dbcache(DBCACHE)},
    "attention": {"attention": AttentionSettings(self_attention="sdpa_math", cross_attention="sdpa")},
    "sparse": {"sparse": SparseSchedule(settings=NABLASettings(mass=0.5, tile=(1, 2, 2)), dense_steps=1, kernel="gather")},
    "compiled": {"compile": CompileSettings("eager")},
}
if find_spec("cache_dit"):  # an optional package
    SETTINGS["cache-dit"] = {"cache": with_cache_dit(DBCACHE)}
every_setting = pytest.mark.parametrize("options", SETTINGS.values(), ids=list(SETTINGS))


def begun(of: WanModel, prompt: str, request: SamplingRequest = REQUEST, **options: Any) -> Generation:
    size = small(of)
    return of.generate(request, of.condition(prompt, "blurry", size), size, **options)


def alone(prompt: str, **options: Any) -> Tensor:
    generation = begun(model_of("t2v"), prompt, **options)
    list(generation)
    return generation.latents


@every_setting
def test_a_second_generation_while_one_is_open_is_refused_and_changes_nothing(options: dict[str, Any]) -> None:
    model = model_of("t2v")
    first, second = begun(model, "a cat sits", **options), begun(model, "the quick brown fox", **options)
    with pytest.raises(RequestError, match=r"second generation .* at work .* open\. Run that one to its end, or close\(\) it"):
        list(zip(first, second, strict=True))
    list(first)
    assert torch.equal(first.latents, alone("a cat sits", **options))


@every_setting
def test_models_of_their_own_generate_side_by_side(options: dict[str, Any]) -> None:
    """They share the text encoder and the VAE, which work in between."""
    model = model_of("t2v")
    other = WanModel(name="other", transformers={"single": tiny.t2v(3)}, vae=model.vae, text_encoder=model.text_encoder)
    expected = begun(other, "a cat sits", **options)
    list(expected)
    first, second = begun(model, "a cat sits", **options), begun(other, "a cat sits", **options)
    for step, _ in zip(first, second, strict=True):
        if step.index == 1:
            model.decode(step.denoised)
            model.condition("a red circle", None, small(model))
    assert torch.equal(first.latents, alone("a cat sits", **options))
    assert torch.equal(second.latents, expected.latents)


def left_by_break(generation: Iterator[Any]) -> None:
    for step in generation:
        if step.index == 1:
            break


def left_by_an_error(generation: Iterator[Any], kind: type[BaseException] = ValueError) -> None:
    def body() -> None:
        for step in generation:
            if step.index == 1:
                raise kind

    with pytest.raises(kind):
        body()


def left_by_ctrl_c(generation: Iterator[Any]) -> None:
    left_by_an_error(generation, KeyboardInterrupt)


WAYS = [(left_by_break, name) for name in SETTINGS] + [(left_by_an_error, "plain"), (left_by_ctrl_c, "DBCache")]


@pytest.mark.parametrize(("leave", "setting"), WAYS)
def test_a_generation_that_was_left_is_over_at_once(leave: Callable[[Iterator[Any]], None], setting: str) -> None:
    options = SETTINGS[setting]
    model, network = model_of("t2v"), NETWORKS["t2v"]["single"]
    kinds, marks = [type(module) for module in network.modules()], set(vars(network))
    gc.disable()  # what is over at once needs no collector
    try:
        leave(begun(model, "a cat sits", **options))
        assert [type(module) for module in network.modules()] == kinds and set(vars(network)) == marks
    finally:
        gc.enable()
    assert torch.equal(alone("the quick brown fox", **options), untouched("the quick brown fox", **options))


def untouched(prompt: str, **options: Any) -> Tensor:
    """By a network that nobody has used."""
    model = model_of("t2v")
    fresh = WanModel(name="t2v", transformers={"single": tiny.t2v()}, vae=model.vae, text_encoder=model.text_encoder)
    generation = begun(fresh, prompt, **options)
    list(generation)
    return generation.latents


def test_the_collector_ends_what_refers_to_itself_and_not_what_runs() -> None:
    model = model_of("t2v")
    circle: list[Any] = [begun(model, "a cat sits")]
    circle.append(circle)
    next(circle[0])
    del circle
    with pytest.raises(RequestError, match="second generation"):
        list(begun(model, "the quick brown fox"))
    gc.collect()
    generation = begun(model, "the quick brown fox")
    for step in generation:
        if step.index == 1:
            gc.collect()
    assert torch.equal(generation.latents, untouched("the quick brown fox"))


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "A LoRA was to be applied": lambda network, folder: apply_lora(
        network, files.save(files.lightx2v_lora(tiny.t2v()), folder / "lora.safetensors", None)
    ),
    "LoRAs were to be removed": lambda network, _: remove_loras(network),
    "Group offloading was asked for": lambda network, _: group_offload(network, torch.device("cpu"), 1),
    "The weights' hash was asked for": lambda network, _: weights_hash({"single": network}),
    "Sparse attention was to be measured": lambda network, _: measured(
        network, (2, 2, 3), [NABLASettings()], torch.device("cpu"), kernel_of("gather")
    ).__enter__(),
}


@pytest.mark.parametrize("taken", [1, 5], ids=["first expert", "second expert"])
@pytest.mark.parametrize("expert", ["high_noise", "low_noise"])
@pytest.mark.parametrize("asked", CHANGES)
def test_networks_at_work_are_not_changed_and_not_read(asked: str, expert: str, taken: int, tmp_path: Any) -> None:
    model = model_of("t2v two experts")
    generation = begun(model, "a cat sits", TWO_EXPERTS)
    for _ in range(taken):
        next(generation)
    network = model.transformers[expert]
    with pytest.raises(RequestError, match=f"{asked}.* the network is at work .*close"):
        CHANGES[asked](network, tmp_path)
    generation.close()
    fresh = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    assert weights_hash(model.transformers) == weights_hash(fresh)
    assert torch.equal(files.velocity_in_place(network), files.velocity_in_place(fresh[expert]))


def test_a_generation_that_is_made_and_not_begun_stops_nobody() -> None:
    model = model_of("t2v")
    first, second = begun(model, "a cat sits"), begun(model, "a cat sits")
    assert len(list(second)) == len(list(first)) == 6
    assert torch.equal(first.latents, second.latents)


@every_setting
def test_the_report_of_an_open_generation_tells_what_ran_so_far(options: dict[str, Any]) -> None:
    generation = begun(model_of("t2v"), "a cat sits", **options)
    for step in generation:
        assert len(generation.report().step_seconds) == step.index + 1
