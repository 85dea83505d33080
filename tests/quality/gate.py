"""The same clips dense and accelerated, on the engine: how alike they are, how much they show of what was asked, how many
block calls were saved.

A case is a kind of demo model and a number of steps. Each of its clips has a prompt and a seed of its own. The dense ones are
made once per case and session, and each accelerator's too.
"""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastvideo_core import SamplingRequest, shifted_sigmas
from fastvideo_core.quality import compare
from fastvideo_core.report import CacheReport
from fastvideo_core.schedule import Schedule
from fastvideo_core.step_cache import DBCACHE_PRESETS, DBCache, MagCache, StepCache, read_table, recommended
from fastvideo_core.wan.demo import FOLDER, DemoKind
from tools.demo_model.engine import KINDS, Batch, DemoEngine, demo_engine
from tools.demo_model.evaluation import READ, readings

CLIPS = 8
"""Per case. Over the four cases 32 clips of which the judge reads 128 things: one less is 0.8 points."""
CASES: tuple[tuple[DemoKind, int], ...] = (*((kind, 20) for kind in KINDS), ("two experts", 40))
"""Twice as many steps with the kind that loses the most."""


@dataclass(frozen=True)
class Dense:
    """frames: (clips, 17, 3, 64, 64) in 0..1."""

    batch: Batch
    frames: Tensor


@dataclass(frozen=True)
class Outcome:
    """ssim, psnr (dB): mean over the clips, of a clip the mean over its frames; cut: share of block calls saved; asked: how
    many things; shown: how many of them the judge reads; reports: one per run."""

    ssim: float
    worst_ssim: float
    psnr: float
    cut: float
    asked: int
    shown: int
    shown_dense: int
    reports: tuple[CacheReport, ...]

    def __str__(self) -> str:
        return (
            f"SSIM {self.ssim:.4f}, worst clip {self.worst_ssim:.4f}, PSNR {self.psnr:.1f} dB, {self.cut:.1%} of the block calls "
            f"saved, {self.shown} of the {self.asked} things asked are shown, by the dense clips {self.shown_dense}"
        )


@functools.cache
def dense(kind: DemoKind, steps: int) -> Dense:
    demo = demo_engine(kind)
    batch = demo.batch(CLIPS)
    return Dense(batch, demo.frames(demo.latents(demo.request(steps), batch)))


def magcache(demo: DemoEngine, schedule: Schedule) -> StepCache:
    """As `auto` makes it: the model's own table, and what is recommended for it."""
    table = read_table(FOLDER / f"{demo.weights}.json")
    return MagCache(schedule, table, recommended(table))


def dbcache(demo: DemoEngine, schedule: Schedule) -> StepCache:
    """As `auto` makes it."""
    return DBCache(schedule, DBCACHE_PRESETS["auto"])


NEW = {"MagCache": magcache, "DBCache": dbcache}


@functools.cache
def outcome(name: str, kind: DemoKind, steps: int) -> Outcome:
    """The accelerator of that name in one case."""
    return compared_to(name, kind, demo_engine(kind).request(steps), dense(kind, steps))


def chained(shift: float) -> Outcome:
    """MagCache on the two experts as ComfyUI's templates of Wan 2.2 chain them: 20 steps, of which the high-noise one makes the
    first half whatever its noise levels. With euler, one run that changes experts there is the same. Half of a case's clips."""
    steps, demo = 20, demo_engine("two experts")
    levels = shifted_sigmas(steps, shift)
    request = replace(demo.request(steps), shift=shift, boundary=(levels[9] + levels[10]) / 2)
    batch = demo.batch(CLIPS // 2)
    return compared_to("MagCache", "two experts", request, Dense(batch, demo.frames(demo.latents(request, batch))), steps)


def compared_to(name: str, kind: DemoKind, request: SamplingRequest, reference: Dense, part_of: float | None = None) -> Outcome:
    """part_of: as in `Schedule`."""
    demo, schedule, count = demo_engine(kind), replace(request.plan(), part_of=part_of), len(reference.frames)
    # MagCache's plan is known before the run; DBCache decides by what it sees, so that its clips are made one by one.
    batches = [reference.batch] if name == "MagCache" else [reference.batch.single(i) for i in range(count)]
    latents, reports = [], []
    for batch in batches:
        cache = NEW[name](demo, schedule)
        latents.append(demo.latents(request, batch, cache))
        reports.append(cache.report())
    frames = demo.frames(torch.cat(latents))
    compared = [compare(a, b).mean for a, b in zip(reference.frames, frames, strict=True)]
    return Outcome(
        ssim=sum(quality.ssim for quality in compared) / count,
        worst_ssim=min(quality.ssim for quality in compared),
        psnr=sum(quality.psnr for quality in compared) / count,
        cut=1 - sum(report.blocks_ran for report in reports) / sum(report.blocks_asked for report in reports),
        asked=count * len(READ),
        shown=readings(reference.batch.scenes, frames),
        shown_dense=readings(reference.batch.scenes, reference.frames),
        reports=tuple(reports),
    )


def lost_points(name: str) -> float:
    """How many percent fewer of all things asked, over all cases, the accelerated clips show than the dense ones."""
    found = [outcome(name, *case) for case in CASES]
    return 100 * sum(case.shown_dense - case.shown for case in found) / sum(case.asked for case in found)
