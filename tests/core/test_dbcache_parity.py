"""Three ways to the same video, step by step: DBCache, cache-dit through the shell, and cache-dit on the transformer itself."""

from dataclasses import replace

import pytest
import tiny
from dbcache_run import SETTINGS, TWO, Reference, Run, deep, two_experts
from magcache_run import recorded_blocks, request

from fastvideo_core.step_cache import CacheDiT, DBCache, DBCacheSettings

pytest.importorskip("cache_dit", reason="cache-dit (optional) is not installed")

CASES = {
    "every few steps": replace(SETTINGS, threshold=0.012),
    "rarely": replace(SETTINGS, threshold=0.02),
    "nothing skipped": replace(SETTINGS, threshold=0.001),
    "all skipped": replace(SETTINGS, threshold=0.5),
    "without Taylor": replace(SETTINGS, threshold=0.02, taylor_order=0),
    "second order": replace(SETTINGS, threshold=0.01, taylor_order=2),
    "F2": replace(SETTINGS, threshold=0.02, first_blocks=2),
    "F1 B2": replace(SETTINGS, threshold=0.015, last_blocks=2),
    "F2 B1": replace(SETTINGS, threshold=0.02, first_blocks=2, last_blocks=1),
    "no warmup": replace(SETTINGS, threshold=0.02, warmup_steps=0),
    "two in a row": replace(SETTINGS, threshold=0.5, max_skips=2),
    "five in all": replace(SETTINGS, threshold=0.5, max_skipped_steps=5, max_skips=3),
    "auto": DBCacheSettings(),
}
MODES = ("batched", "sequential")
every_case = pytest.mark.parametrize("settings", CASES.values(), ids=list(CASES))


@pytest.mark.parametrize("mode", MODES)
@every_case
def test_one_expert(settings: DBCacheSettings, mode: str) -> None:
    asked, networks = request(12, mode=mode), {"single": deep()}
    resolved = replace(settings, threshold=settings.threshold_in(asked.steps))
    own, shell, reference = (
        Run(asked, networks, settings),
        Run(asked, networks, settings, cache=CacheDiT),
        Reference(asked, networks, resolved),
    )
    videos = [way.latents() for way in (reference, own, shell)]
    assert own.actions() == shell.actions() == reference.actions
    assert own.actions("negative") == shell.actions("negative")
    for there, *here in zip(*videos, strict=True):
        assert [tiny.relative_error(latents, there) < 1e-6 for latents in here] == [True, True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [0, 1])
def test_two_experts_with_warmup_and_limit_of_their_own(mode: str, order: int) -> None:
    asked = replace(TWO, guidance=replace(TWO.guidance, mode=mode))
    settings = replace(
        SETTINGS, threshold=0.03, low_noise_warmup_steps=1, max_skipped_steps=2, low_noise_max_skipped_steps=3, taylor_order=order
    )
    networks = two_experts()
    own, shell, reference = (
        Run(asked, networks, settings),
        Run(asked, networks, settings, cache=CacheDiT),
        Reference(asked, networks, settings),
    )
    videos = [way.latents() for way in (reference, own, shell)]
    assert own.actions() == shell.actions() == reference.actions
    assert own.actions()[1][1] == "S"
    for there, *here in zip(*videos, strict=True):
        assert [tiny.relative_error(latents, there) < 1e-6 for latents in here] == [True, True]


@pytest.mark.parametrize("order", [0, 1])
def test_the_differences_are_the_same_numbers(order: int) -> None:
    asked, networks = request(12, mode="batched"), {"single": deep()}
    settings = replace(SETTINGS, threshold=0.012, taylor_order=order)
    own, reference = Run(asked, networks, settings), Reference(asked, networks, settings)
    own.latents(), reference.latents()
    measured = [decision.reason.split()[1] for decision in own.cache.done.phases[0].decisions[2:]]
    assert measured == [f"{difference:.4g}" for difference in reference.differences[0].values()]


@pytest.mark.parametrize("cut", [0.25, 0.5])
def test_behind_the_gate_the_positive_branch_goes_on_as_before(cut: float) -> None:
    """cache-dit on the transformer cannot be asked: it tells branches apart by counting calls in pairs."""
    asked = request(12, mode="sequential", gate=cut)
    ungated = request(12, mode="sequential")
    settings = replace(SETTINGS, threshold=0.012)
    own, shell = (Run(asked, {"single": deep()}, settings, cache=cache) for cache in (DBCache, CacheDiT))
    for a, b in zip(own.latents(), shell.latents(), strict=True):
        assert tiny.relative_error(a, b) < 1e-6
    assert own.actions() == shell.actions()
    assert own.actions("negative") == shell.actions("negative")
    whole = Run(ungated, {"single": deep()}, settings)
    whole.latents()
    steps = int(12 * cut)
    assert own.actions("negative")[0] == whole.actions("negative")[0][:steps] + "-" * (12 - steps)


def test_as_many_blocks_run_as_the_report_says_and_as_with_cache_dit() -> None:
    asked, network = request(12, mode="batched"), deep()
    settings = replace(SETTINGS, threshold=0.012)
    counts = []
    for cache in (DBCache, CacheDiT):
        run = Run(asked, {"single": network}, settings, cache=cache)
        with recorded_blocks(network) as blocks:
            run.latents()
        counts.append((len(blocks), run.cache.report().blocks_ran, run.cache.report().blocks_asked))
    (first_and_last, ran, asked_for), other = counts
    assert counts[0] == other
    computed = 12 - (48 - ran) // 3
    assert (first_and_last, asked_for) == (12 + computed, 48)
    assert 0 < computed < 12
