"""Every node runs on every precision that a Wan file comes in, with and without a LoRA of core's loader on top."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from caching import cached, fingerprint_of, put_table, weights_of
from sampling import conditions_of, latent_of, relative_error, run_guider, run_ksampler, run_node, shifted, sigmas_of
from test_attention import attended
from test_compile import compiled, dbcached
from test_guider import guider_of
from test_sparse_attention import DENSE, sparse
from tiny_wan import random_weights, save_lora
from torch import Tensor
from wan_files import KINDS, load_kind

from fastvideo_core import LoadError

pytestmark = pytest.mark.usefixtures("direct")

SEED, OTHER_SEED = 11, 12
STEPS = 4
PACKINGS = ["fp8", "scaled_fp8", "nvfp4", "int8 rotated", "gguf"]
"""One of each way to store a matrix: for what takes longer."""


@pytest.fixture(scope="module")
def models(comfy: Any) -> Callable[..., Any]:
    """(kind, seed) -> MODEL of that kind."""
    loaded: dict[tuple[str, int], Any] = {}

    def load(kind: str, seed: int = SEED) -> Any:
        if (kind, seed) not in loaded:
            path = comfy.model_folder("diffusion_models") / file_name(kind, seed)
            loaded[kind, seed] = load_kind(path, kind, random_weights("t2v", seed))
        return loaded[kind, seed]

    return load


@pytest.fixture(autouse=True, scope="module")
def _table(comfy: Any, models: Any) -> Iterator[None]:
    """Measured on the float32 file, for all of them."""
    file = put_table(comfy, models("fp32"))
    yield
    file.unlink()


@pytest.fixture(params=KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(params=["alone", "with a LoRA"])
def model(comfy: Any, models: Any, kind: str, request: Any) -> Any:
    return models(kind) if request.param == "alone" else with_lora(comfy, models(kind))


def with_lora(host: Any, model: Any) -> Any:
    import nodes

    lora = save_lora(host.model_folder("loras")).name
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, lora, 0.8)[0]


@pytest.fixture(scope="module")
def vae(comfy: Any) -> Any:
    return comfy.node_classes["FastVideoLoadDemoWan"].execute(model="t2v").args[3]


def as_guider(host: Any, model: Any) -> Tensor:
    return run_guider(guider_of(host, shifted(model, 5.0)), "euler", sigmas_of(STEPS))


NEUTRAL: dict[str, Callable[[Any, Any], Any]] = {
    "MagCache": lambda host, model: cached(host, model, threshold=0.0),
    "DBCache": lambda host, model: dbcached(host, model, threshold=0.0),
    "Attention": lambda host, model: attended(host, model),
    "Sparse Attention": lambda host, model: sparse(host, model, "VSA", **DENSE["VSA"]),
}


def test_neutral_settings_give_the_video_of_ksampler(comfy: Any, model: Any, kind: str) -> None:
    """To rounding; the integer kinds turn what they read into integers too, of which rounding makes other ones."""
    plain = run_ksampler(model, steps=STEPS)
    videos = {name: run_ksampler(on(comfy, model), steps=STEPS) for name, on in NEUTRAL.items()}
    videos |= {"Sampler": run_node(comfy, model, steps=STEPS)[0], "Guider": as_guider(comfy, model)}
    limit = 0.02 if kind.startswith("int") else 1e-5
    assert {name: error for name, video in videos.items() if (error := relative_error(video, plain)) > limit} == {}


def test_a_table_that_was_measured_in_float32_serves_every_precision(comfy: Any, models: Any, model: Any, kind: str) -> None:
    video, report = run_node(comfy, cached(comfy, model))
    assert report.caches[0].settings["table"] == weights_of(comfy, models("fp32"))
    assert 0.3 < report.caches[0].block_cut < 0.8
    assert relative_error(video, run_node(comfy, model)[0]) < 0.3
    agreement = fingerprint_of(comfy, model).agreement(fingerprint_of(comfy, models("fp32")))
    assert agreement == (pytest.approx(1, abs=0.02) if kind == "fp8" else 1)


READ_BY_THE_ENGINE = ["fp32", "bf16", "fp16", "fp8", "scaled_fp8", "fp8 e4m3", "fp8 e5m2"]


def test_the_engines_loader_finds_the_same_table_or_says_what_it_does_not_read(comfy: Any, models: Any, kind: str) -> None:
    """It unpacks weights as it loads them, so that no dtype tells any more what they were."""
    models(kind)
    name, load = file_name(kind), comfy.node_classes["FastVideoLoadDiffusersModel"].execute
    if kind in READ_BY_THE_ENGINE:
        _, report = run_node(comfy, cached(comfy, load(name, "bfloat16", "none", 1.0).args[0]))
        assert report.caches[0].settings["table"] == weights_of(comfy, models("fp32"))
    elif kind != "gguf":
        with pytest.raises(LoadError, match=r"is quantised as .*, which cannot be turned into exact weights here"):
            load(name, "bfloat16", "none", 1.0)


def file_name(kind: str, seed: int = SEED) -> str:
    return f"{kind.replace(' ', '_')}_{seed}.safetensors"


def test_weights_of_another_training_get_no_table_of_these(comfy: Any, models: Any, kind: str) -> None:
    with pytest.raises(LoadError, match="no ratio table"):
        run_node(comfy, cached(comfy, models(kind, OTHER_SEED)), steps=STEPS)


@contextmanager
def calibrated(host: Any, *experts: Any) -> Iterator[str]:
    """The name of the table that the node measured on one MODEL, or on two experts."""
    positive, negative = conditions_of("t2v")
    second = {"low_noise_model": experts[1]} if len(experts) == 2 else {}
    _, _, text = host.node_classes["FastVideoCalibrateMagCache"].execute(
        model=experts[0], positive=positive, negative=negative, latent=latent_of("t2v"), seed=1, steps=9, shift=5.0,
        guidance_scale=4.0, low_noise_guidance_scale=3.0, boundary=0.875, guidance_mode="auto", **second,
    ).args  # fmt: skip
    name = "_".join(weights_of(host, expert) for expert in experts)
    file = host.model_folder("fastvideo_ratios") / f"{name}.json"
    assert str(file) in text
    try:
        yield name
    finally:
        file.unlink()


def test_what_is_calibrated_on_a_precision_serves_float32(comfy: Any, models: Any, kind: str) -> None:
    with calibrated(comfy, models(kind, OTHER_SEED)) as name:
        _, report = run_node(comfy, cached(comfy, models("fp32", OTHER_SEED)))
        assert report.caches[0].settings["table"] == name


def test_two_experts_may_be_in_two_precisions(comfy: Any, models: Any) -> None:
    """Each expert finds the pair's table by itself; the pair in one precision finds that of another."""
    with calibrated(comfy, models("scaled_fp8"), with_lora(comfy, models("gguf", OTHER_SEED))) as name:
        for high, low in (("scaled_fp8", "gguf"), ("bf16", "nvfp4")):
            pair = [cached(comfy, model) for model in (models(high), models(low, OTHER_SEED))]
            _, report = run_node(comfy, pair[0], "t2v", pair[1])
            assert [cache.settings["table"] for cache in report.caches] == [name, name]


@pytest.mark.parametrize("kind", PACKINGS, indirect=True)
def test_accelerators_run_together(comfy: Any, models: Any, kind: str) -> None:
    """DBCache, sparse attention and chosen kernels on one MODEL, and the two runs compared."""
    model = with_lora(comfy, models(kind))
    dense, before = run_node(comfy, model, steps=STEPS)
    fast = attended(comfy, sparse(comfy, dbcached(comfy, model), "VSA", sparsity=0.5), "sdpa", "sdpa", fold_text=True)
    video, report = run_node(comfy, fast, steps=STEPS)
    assert video.isfinite().all()
    assert relative_error(video, dense) < 0.5
    assert report.caches and report.sparse and report.attention
    frames = [latents[0, :3].movedim(0, -1).sigmoid().repeat(1, 2, 2, 1) for latents in (dense, video)]
    told = comfy.node_classes["FastVideoCompare"].execute(*frames, "side_by_side", 4.0, before, report)
    assert "SSIM" in told.args[0]


@pytest.mark.parametrize("kind", PACKINGS, indirect=True)
def test_blocks_compile(comfy: Any, models: Any, kind: str) -> None:
    torch.compiler.reset()
    model = with_lora(comfy, models(kind))
    video, report = run_node(comfy, compiled(comfy, model), steps=STEPS)
    assert relative_error(video, run_node(comfy, model, steps=STEPS)[0]) < 1e-5
    assert [note for note in report.notes if note.startswith("blocks compiled by")]
    torch.compiler.reset()


@pytest.mark.parametrize("kind", PACKINGS, indirect=True)
def test_auto_tune_finds_settings(comfy: Any, models: Any, kind: str, vae: Any) -> None:
    positive, negative = conditions_of("t2v")
    latent = {"samples": torch.zeros(1, 16, 1, 4, 4)}
    tuned = comfy.node_classes["FastVideoAutoTune"].execute(
        model=with_lora(comfy, models(kind)), positive=positive, negative=negative, vae=vae, latent=latent, cache="magcache",
        target_ssim=0.5, seed=3, steps=8, shift=5.0, solver="euler", guidance_scale=4.0, low_noise_guidance_scale=3.0,
        boundary=0.875, guidance_mode="auto",
    ).args[0]  # fmt: skip
    assert run_node(comfy, tuned)[1].caches[0].block_cut > 0
