"""cache-dit through the shell on another network: HunyuanVideo, whose blocks lie in two lists and give tokens and context."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from dbcache_run import SETTINGS
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor, nn

from fastvideo_core import Phase, RequestError, Schedule, plan
from fastvideo_core.step_cache import CacheDiT, DBCacheSettings

pytest.importorskip("cache_dit", reason="cache-dit (optional) is not installed")
LISTS = ("transformer_blocks", "single_transformer_blocks")
STEPS = 8


def hunyuan() -> HunyuanVideoTransformer3DModel:
    network = tiny.seeded(
        0, HunyuanVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10,
        num_layers=3, num_single_layers=4, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    return network.eval().requires_grad_(False)


@torch.no_grad()
def run(network: nn.Module, schedule: Schedule, session: Any = None) -> list[Tensor]:
    """A generation with the guidance scale as the network's input: one call per step. The latents after each."""
    latents, history = tiny.normal((1, 4, 3, 4, 6), 1), []
    for step in range(schedule.steps):
        if session is not None:
            session.begin(step, ("positive",))
        sigma, target = schedule.sigmas[step : step + 2]
        velocity = network(
            hidden_states=latents, timestep=torch.tensor([1000 * sigma]), encoder_hidden_states=tiny.normal((1, 7, 16), 2),
            encoder_attention_mask=torch.tensor([[1] * 5 + [0] * 2]), pooled_projections=tiny.normal((1, 8), 3),
            guidance=torch.tensor([6000.0]), return_dict=False,
        )[0]  # fmt: skip
        latents = latents + (target - sigma) * velocity
        history.append(latents)
    return history


def cached(network: nn.Module, settings: DBCacheSettings) -> tuple[list[Tensor], CacheDiT]:
    schedule = plan([1 - i / STEPS for i in range(STEPS + 1)], 5.0)
    cache = CacheDiT(schedule, settings)
    with cache.session(schedule.phases[0]) as session:
        assert session is not None
        with session.installed(network):
            return run(network, schedule, session), cache


SCHEDULE = plan([1 - i / STEPS for i in range(STEPS + 1)], 5.0)
PHASE: Phase = SCHEDULE.phases[0]


def test_a_cache_that_never_skips_is_the_plain_run_bit_by_bit() -> None:
    latents, cache = cached(hunyuan(), replace(SETTINGS, threshold=1e-9))
    plain = run(hunyuan(), SCHEDULE)
    assert [torch.equal(a, b) for a, b in zip(latents, plain, strict=True)] == [True] * STEPS
    assert cache.report().block_cut == 0


def test_threshold_0_stands_aside() -> None:
    with CacheDiT(SCHEDULE, replace(SETTINGS, threshold=0.0)).session(PHASE) as session:
        assert session is None


@pytest.mark.parametrize("order", [0, 1])
def test_skipped_steps_run_the_first_block_of_each_list_and_end_near_the_plain_run(order: int) -> None:
    network = hunyuan()
    counts = dict.fromkeys(LISTS, 0)
    for name in LISTS:
        for block in getattr(network, name):
            block.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    latents, cache = cached(network, replace(SETTINGS, threshold=0.9, taylor_order=order))
    report = cache.report()
    assert [row.plan for row in report.phases] == ["CCSSSSSS"]
    assert counts == {"transformer_blocks": 2 * 3 + 6, "single_transformer_blocks": 2 * 4 + 6}
    assert (report.blocks_ran, report.blocks_asked) == (sum(counts.values()), STEPS * 7)
    assert 0 < tiny.relative_error(latents[-1], run(hunyuan(), SCHEDULE)[-1]) < 0.1


@pytest.mark.parametrize("order", [0, 1])
def test_it_is_what_cache_dit_does_on_the_transformer_itself(order: int, capsys: pytest.CaptureFixture[str]) -> None:
    import cache_dit

    network = hunyuan()
    adapter = cache_dit.BlockAdapter(
        transformer=network, blocks=[network.transformer_blocks, network.single_transformer_blocks],
        forward_pattern=[cache_dit.ForwardPattern.Pattern_0] * 2, check_forward_pattern=True, check_num_outputs=False,
    )  # fmt: skip
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        residual_diff_threshold=0.2,
        max_warmup_steps=2,
        num_inference_steps=STEPS,
        enable_separate_cfg=False,
    )
    taylor = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
    cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=taylor)
    theirs = run(network, SCHEDULE)
    skipped = [stats.cached_steps for stats in cache_dit.summary(network, logging=False)[:2]]
    assert any(skipped) and not all(len(steps) == STEPS - 2 for steps in skipped)
    latents, cache = cached(hunyuan(), replace(SETTINGS, threshold=0.2, taylor_order=order))
    assert [tiny.relative_error(a, b) < 1e-6 for a, b in zip(latents, theirs, strict=True)] == [True] * STEPS
    assert cache.report().blocks_ran == STEPS * 7 - sum(
        len(steps) * saved for steps, saved in zip(skipped[::-1], (2, 3), strict=True)
    )


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_nothing_remains(end: str) -> None:
    network = hunyuan()
    before = [(name, sorted(vars(module)), module.forward.__func__) for name, module in network.named_modules()]
    lists, keys = [getattr(network, name) for name in LISTS], list(network.state_dict())
    if end == "failed":
        handle = network.single_transformer_blocks[0].register_forward_hook(_fail)
        with pytest.raises(KeyboardInterrupt):
            cached(network, SETTINGS)
        handle.remove()
    else:
        cached(network, SETTINGS)
    assert [getattr(network, name) for name in LISTS] == lists
    assert all(getattr(network, name) is blocks for name, blocks in zip(LISTS, lists, strict=True))
    assert list(network.state_dict()) == keys
    assert [(name, sorted(vars(module)), module.forward.__func__) for name, module in network.named_modules()] == before


def _fail(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_unknown_network_is_refused_by_name_with_those_that_are_known() -> None:
    with (
        CacheDiT(SCHEDULE, SETTINGS).session(PHASE) as session,
        pytest.raises(RequestError, match=r"on a Linear.*WanTransf.*Hunyuan"),
    ):
        assert session is not None
        with session.installed(nn.Linear(1, 1)):
            pass


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    with pytest.raises(
        RequestError, match=r"cache_dit is not installed: pip install cache-dit\. DBCache makes the same decisions"
    ):
        CacheDiT(SCHEDULE, SETTINGS)


def test_residuals_on_the_cpu_are_refused() -> None:
    with pytest.raises(RequestError, match="residuals_on_cpu"):
        CacheDiT(SCHEDULE, replace(SETTINGS, residuals_on_cpu=True))
