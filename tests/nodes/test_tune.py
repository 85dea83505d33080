"""FastVideo Auto-tune on the demo model: what it finds reaches the target, and the MODEL that it gives does it again."""

import json
from typing import Any

import pytest
import torch
from sampling import normal
from tiny_wan import save_wan

from fastvideo_core import RequestError
from fastvideo_core.quality import ssim

SETTINGS: dict[str, Any] = {
    "seed": 3, "steps": 12, "shift": 5.0, "solver": "euler", "guidance_scale": 3.0, "low_noise_guidance_scale": 3.0,
    "boundary": 0.875, "guidance_mode": "batched",
}  # fmt: skip


def demo(host: Any, model: str = "t2v") -> dict[str, Any]:
    """Inputs of the node and of the sampler, from the demo's loader."""
    high, low, clip, vae, _ = host.node_classes["FastVideoLoadDemoWan"].execute(model=model).args
    encode = host.node_classes["FastVideoTextEncode"].execute
    positive, negative = encode(clip=clip, positive="a red circle moving left over a teal background", negative="").args[:2]
    given = {"model": high, "positive": positive, "negative": negative, "vae": vae, **SETTINGS}
    return given | {"latent": {"samples": torch.zeros(1, 16, 3, 8, 8)}} | ({} if low is None else {"low_noise_model": low})


def tuned(host: Any, given: dict[str, Any], cache: str, target: float = 0.9) -> Any:
    return host.node_classes["FastVideoAutoTune"].execute(**given, cache=cache, target_ssim=target).args


def frames(host: Any, given: dict[str, Any], **changes: Any) -> Any:
    """Frames (T, 3, H, W) and report of FastVideo Sampler."""
    inputs = {name: value for name, value in {**given, **changes}.items() if name != "vae"}
    video, report = host.node_classes["FastVideoSampler"].execute(**inputs, gate=1.0, guidance_rescale=0.0).args
    return given["vae"].decode(video["samples"])[0].movedim(-1, 1), report


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("cache", ["magcache", "dbcache"])
def test_the_tuned_model_reaches_the_target_and_skips_and_the_given_one_stays_without_a_cache(comfy: Any, cache: str) -> None:
    given = demo(comfy)
    before, _ = frames(comfy, given)
    model, low_noise, text, plot, told = tuned(comfy, given, cache)
    data = json.loads(told)
    dense, without = frames(comfy, given)
    assert torch.equal(before, dense) and without.caches == ()
    fast, report = frames(comfy, given, model=model)
    assert low_noise is None
    assert float(ssim(dense, fast, 1.0).mean()) == pytest.approx(data["best"]["quality"]["ssim"], abs=1e-5)
    assert data["best"]["quality"]["ssim"] >= 0.9
    assert report.caches[0].block_cut == pytest.approx(data["best"]["cut"]) and data["best"]["cut"] > 0.2
    assert "reaches SSIM 0.9" in text
    assert plot.shape == (1, 320, 720, 3)


@pytest.mark.usefixtures("direct")
def test_two_experts_are_tuned_together(comfy: Any) -> None:
    given = demo(comfy, "two experts")
    model, low_noise, _, _, told = tuned(comfy, given, "magcache", 0.8)
    _, report = frames(comfy, given, model=model, low_noise_model=low_noise)
    saved = 1 - sum(cache.blocks_ran for cache in report.caches) / sum(cache.blocks_asked for cache in report.caches)
    assert len(report.caches) == 2
    assert saved == pytest.approx(json.loads(told)["best"]["cut"])


@pytest.mark.usefixtures("direct")
def test_a_model_that_has_a_cache_already_is_refused(comfy: Any) -> None:
    given = demo(comfy)
    with_cache = comfy.node_classes["FastVideoDBCache"].execute(
        model=given["model"], enabled=True, preset={"preset": "auto"}, residuals_on_cpu=False
    )
    with pytest.raises(RequestError, match="FastVideo DBCache"):
        tuned(comfy, given | {"model": with_cache.args[0]}, "magcache")


@pytest.mark.usefixtures("direct")
def test_a_target_out_of_reach_says_what_was_tried(comfy: Any) -> None:
    with pytest.raises(RequestError, match="No setting of magcache reaches SSIM 1 "):
        tuned(comfy, demo(comfy) | {"steps": 6}, "magcache", 1.0)


@pytest.mark.usefixtures("direct")
def test_auto_tune_says_that_there_is_nothing_to_tune_before_any_run(comfy: Any) -> None:
    from comfy.sd import load_diffusion_model

    path = save_wan(comfy.model_folder("diffusion_models"), "lightx2v-4steps-T2V", "t2v")
    given = demo(comfy) | {"model": load_diffusion_model(str(path)), "steps": 4}
    with pytest.raises(RequestError, match=r"nothing to tune: dbcache stands aside: by its names .* one of lightx2v_wan2\.1"):
        tuned(comfy, given, "dbcache")


def test_a_vae_that_is_none_is_refused(comfy: Any, load_wan: Any) -> None:
    given = {
        **SETTINGS,
        "model": load_wan(),
        "positive": [[normal(0, 1, 512, 32), {}]],
        "negative": [[normal(0, 1, 512, 32), {}]],
    }
    with pytest.raises(RequestError, match="vae input got 'x' and needs a connection"):
        tuned(comfy, given | {"vae": "x", "latent": {}}, "magcache")
