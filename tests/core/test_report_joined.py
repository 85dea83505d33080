"""The report of a run that was made in parts is that of the run in one."""

from dataclasses import replace
from typing import Any

import pytest
from many_cases import PAIR, TWO, alone, job
from state_cases import THREE, request
from tiny_model import model_of

from fastvideo_core import DBCacheSettings, Generation, GenerationState, GuidanceSettings, RunReport, joined, with_dbcache
from fastvideo_core.attention import AttentionSettings
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule

NABLA = NABLASettings(mass=0.5, tile=(1, 2, 2))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "DBCache": {"cache": with_dbcache(DBCacheSettings(threshold=0.9, first_blocks=1, warmup_steps=1))},
    "attention": {"attention": AttentionSettings(self_attention="sdpa_math")},
    "sparse": {"sparse": SparseSchedule(settings=NABLA, low_noise=NABLA, kernel="gather")},
}
TIMES: dict[str, Any] = {"step_seconds": (), "total_seconds": 0.0, "peak_memory_bytes": None, "guidance_reason": "", "notes": ()}


def summed(report: RunReport) -> RunReport:
    """With one row for all caches: a run in parts has one for each."""
    caches = report.caches[:1]
    if caches:
        totals = {name: sum(getattr(cache, name) for cache in report.caches) for name in ("blocks_ran", "blocks_asked")}
        phases = tuple(row for cache in report.caches for row in cache.phases)
        caches = (replace(caches[0], phases=phases, peak_bytes=0, **totals),)
    return replace(report, caches=caches, **TIMES)


@pytest.mark.parametrize("phases", [TWO, {"phases": THREE}], ids=["two", "three"])
@pytest.mark.parametrize("name", OPTIONS)
def test_parts_that_went_on_are_one_run(name: str, phases: dict[str, Any]) -> None:
    model, options = model_of(PAIR), OPTIONS[name]
    asked = job(PAIR, 0, request(**phases, guidance=GuidanceSettings(mode="batched", gate=0.4 if name == "plain" else 1.0)))

    def part(state: GenerationState | None) -> Generation:
        return model.generate(asked.request, asked.conditioning, asked.size, **options, state=state)

    first = part(None)
    list(first.turn())
    second = part(first.state())
    list(second)
    whole, found = alone(model, asked, **options).report(), joined([first.report(), second.report()])
    assert summed(found) == summed(replace(whole, networks=1)), "a part counts its own networks"
    assert found.step_seconds == (*first.report().step_seconds, *second.report().step_seconds) and len(found.step_seconds) == 6
    assert found.total_seconds == first.report().total_seconds + second.report().total_seconds
    assert len(set(found.notes)) == len(found.notes)
