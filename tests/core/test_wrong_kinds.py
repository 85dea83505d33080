"""Values of a wrong kind, NaN and infinity in every setting and argument of the Python API: each is refused by its name, in
words of ours, before anything is loaded or computed."""

import math
import types
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from tiny_model import model_of, picture, small

from fastvideo_core import (
    AttentionSettings,
    CompileSettings,
    DBCacheSettings,
    FastVideoError,
    GuidanceSettings,
    MagCacheSettings,
    RequestError,
    SamplingRequest,
    VideoSize,
    WanModel,
    apply_lora,
    compare,
    group_offload,
    load_demo,
    tune,
    with_cache_dit,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import (
    BSASettings,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    STASettings,
    VSASettings,
)

WRONG: list[Any] = [
    None, "", "many", "5", b"5", math.nan, math.inf, -math.inf, -1, 1.5, True, 1e308, [], [1], {}, (), ("a", "b", "c"),
    (1.0, 2.0, 3.0), (1, 1), object(), torch.zeros(2), VideoSize, lambda: None, 3 + 4j,
]  # fmt: skip
SETTINGS: dict[type, dict[str, Any]] = {
    VideoSize: {"width": 64, "height": 64, "frames": 5},
    SamplingRequest: {"steps": 4, "shift": 5.0, "guidance_scale": 3.0},
    GuidanceSettings: {},
    MagCacheSettings: {"threshold": 0.1, "max_skips": 2},
    DBCacheSettings: {},
    AttentionSettings: {},
    SparseSchedule: {"settings": VSASettings(sparsity=0.5)},
    VSASettings: {"sparsity": 0.5},
    SLASettings: {"sparsity": 0.5},
    BSASettings: {},
    STASettings: {"window": (3, 3, 3)},
    NABLASettings: {},
    CompileSettings: {},
}
EVERY = [(kind, field.name) for kind in SETTINGS for field in fields(kind)]
CALLED = {"target": "SSIM"}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a setting states."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint in (bool, str, type(None)) and isinstance(value, hint)


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{kind.__name__}.{name}" for kind, name in EVERY])
def test_every_setting_is_looked_at(kind: type, name: str) -> None:
    hint = get_type_hints(kind)[name]
    for value in WRONG:
        try:
            made = kind(**SETTINGS[kind] | {name: value})
        except RequestError as error:
            assert name.split("_")[-1] in str(error) and len(str(error)) < 400
        else:
            assert fits(getattr(made, name), hint), (name, value)


def model() -> WanModel:
    return model_of("t2v")


def generation(**changes: Any) -> Any:
    ours = model()
    size = small(ours)
    told = ours.condition("a cat", "", size)
    return ours.generate(**{
        "request": SamplingRequest(steps=2, shift=5.0, guidance_scale=3.0), "conditioning": told, "size": size,
    } | changes)  # fmt: skip


def conditioned(**changes: Any) -> Any:
    ours = model_of("i2v two experts")
    first = picture(small(ours))
    return ours.condition(**{"prompt": "a cat", "negative": "", "size": small(ours), "first_image": first} | changes)


def frames() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


def loaded(**changes: Any) -> Any:
    return WanModel.from_files(**{"transformer": "no.safetensors", "vae": "no", "text_encoder": "no"} | changes)


CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "generate": (generation, ("request", "conditioning", "size", "cache", "attention", "sparse", "compile")),
    "condition": (conditioned, ("prompt", "negative", "size", "first_image", "last_image")),
    "decode": (lambda **given: model().decode(**given), ("latents",)),
    "video_size": (
        lambda **given: model().video_size(**{"width": 64, "height": 64, "frames": 5} | given),
        ("width", "height", "frames"),
    ),
    "from_files": (
        loaded,
        (
            "transformer", "vae", "text_encoder", "low_noise_transformer", "image_encoder", "tokenizer", "dtype", "vae_dtype",
            "device", "offload_device",
        ),
    ),
    "load": (lambda **given: WanModel.load(**{"folder": "nowhere"} | given), ("folder", "dtype", "device")),
    "load_demo": (load_demo, ("kind",)),
    "compare": (
        lambda **given: compare(**{"a": frames(), "b": frames()} | given), ("a", "b", "data_range", "perceptual"),
    ),
    "tune": (
        lambda **given: tune(**{"cache": "magcache", "target": 0.9, "attempt": never} | given),
        ("cache", "target"),
    ),
    "with_magcache": (with_magcache, ("settings", "table")),
    "with_dbcache": (with_dbcache, ("settings",)),
    "with_cache_dit": (with_cache_dit, ("settings",)),
    "apply_lora": (
        lambda **given: apply_lora(model().transformers["single"], **{"path": "no.safetensors"} | given), ("strength",),
    ),
    "group_offload": (
        lambda **given: group_offload(model().transformers["single"], torch.device("cpu"), **given), ("blocks_per_group",),
    ),
}  # fmt: skip
"""Name of the call -> it, with right values for all arguments but those that are given; and the arguments to get wrong."""
EVERY_ARGUMENT = [(call, name) for call, (_, names) in CALLS.items() for name in names]


class Tried(Exception):  # noqa: N818
    pass


def never(settings: Any) -> Any:
    raise Tried


@pytest.mark.parametrize(("call", "name"), EVERY_ARGUMENT, ids=[f"{call}({name})" for call, name in EVERY_ARGUMENT])
def test_every_argument_is_looked_at(call: str, name: str) -> None:
    """Right values, and those that the call cannot tell from right ones, run or fail at a later thing, with words too."""
    refused = 0
    for value in WRONG:
        if name == "cache" and callable(value):
            continue  # what it makes, only a generation can tell
        try:
            CALLS[call][0](**{name: value})
        except FastVideoError as error:
            assert str(error).strip() and len(str(error)) < 500
            refused += any(word in str(error) for word in (*name.split("_"), CALLED.get(name, "video")))
        except Tried:
            pass
    assert refused >= len(WRONG) - 7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_not_decoded(value: float) -> None:
    ours = model()
    latents = torch.zeros(small(ours).latent_shape(ours.vae.channels))
    latents[0, 0, 0, 0, 0] = value
    with pytest.raises(FastVideoError, match="What made the latents to be decoded gave 1 of"):
        ours.decode(latents)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_told_before_files_are_read(device: str) -> None:
    with pytest.raises(RequestError, match=r"device is .*(give a device of torch|no such device here)"):
        loaded(device=device)


def test_settings_in_the_place_of_a_step_cache_name_the_call_that_is_missing() -> None:
    with pytest.raises(RequestError, match=r"cache is MagCacheSettings.*give with_magcache\(\.\.\.\)"):
        generation(cache=MagCacheSettings(threshold=0.1, max_skips=1))
    with pytest.raises(RequestError, match=r"settings is .*give MagCacheSettings"):
        generation(cache=with_magcache)


def test_an_unknown_backend_of_the_compiler_is_told_before_the_run() -> None:
    with pytest.raises(RequestError, match=r"The backend of torch\.compile is 'magic': use one of .*inductor"):
        generation(compile=CompileSettings("magic"))


@pytest.mark.parametrize("text", [None, 7, ["a", "b"], b"cat"])
def test_a_prompt_that_is_no_text_is_named(text: Any) -> None:
    with pytest.raises(RequestError, match=r"The prompt is .*: give a text"):
        conditioned(prompt=text)
    if text is not None:
        with pytest.raises(RequestError, match=r"The negative is .*: give a text"):
            conditioned(negative=text)


@pytest.mark.parametrize(
    "image", [7, "cat.png", torch.zeros(1, 3, 32, 48, dtype=torch.uint8), torch.full((1, 3, 32, 48), math.nan)]
)
def test_an_image_that_is_none_is_named(image: Any) -> None:
    with pytest.raises(FastVideoError, match="The first image"):
        conditioned(first_image=image)
