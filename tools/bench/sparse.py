"""What sparse attention changes on the trained demo model: the attention's output on a dense run's own tokens, and the videos."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvideo_core import Guidance, generate
from fastvideo_core.attention.sparse import SparseExperts, SparseSchedule, SparseSettings, kernel_of, measured
from fastvideo_core.quality import compare
from fastvideo_core.report import SparseReport
from fastvideo_core.wan.demo import DemoKind
from tools.demo_model.engine import Batch, DemoEngine, demo_engine
from tools.demo_model.evaluation import readings

from .sparse_ladder import ON_CLIPS, ladder, told
from .sparse_time import Timing, timings

KINDS: tuple[DemoKind, ...] = ("t2v", "i2v")
STEPS, DENSE_STEPS = 20, 5
MEASURED = 2
"""Clips whose attention is compared; a quarter of the steps are the early ones."""
TOKENS = (5, 4, 4)


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """Of one setting, ||sparse - dense|| / ||dense|| over all layers, of the first DENSE_STEPS steps and the others; worst_layer:
    of the layer where it is largest, over all steps; density: share of the pairs of tokens that are computed."""

    early: float
    late: float
    worst_layer: float
    density: float


@dataclass(frozen=True, kw_only=True)
class Video:
    """Means over the clips against the dense ones of the same seeds; how many of the things asked the judge reads; density of the
    sparse calls."""

    ssim: float
    worst_ssim: float
    psnr: float
    shown: int
    density: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """videos: sparse from the first step, and from step DENSE_STEPS on."""

    kind: str
    variant: str
    setting: str
    error: OutputError
    videos: tuple[Video, Video]


@dataclass(frozen=True)
class Result:
    """shown: how many of the things asked the judge reads from the dense clips of each kind."""

    rows: Sequence[Row]
    shown: dict[str, int]
    timings: Sequence[Timing]


def run(clips: int) -> Result:
    settings, rows, shown = ladder(ON_CLIPS), [], {}
    for kind in KINDS:
        demo = demo_engine(kind)
        batch = demo.batch(clips)
        dense = demo.frames(demo.latents(demo.request(STEPS), batch))
        shown[kind] = readings(batch.scenes, dense)
        errors = output_errors(demo, demo.batch(min(clips, MEASURED)), settings)
        for each, error in zip(settings, errors, strict=True):
            videos = tuple(video(demo, batch, dense, each, first) for first in (0, DENSE_STEPS))
            rows.append(Row(kind=kind, variant=each.name, setting=told(each), error=error, videos=videos))
        print(f"{kind}: done", flush=True)
    return Result(rows, shown, timings())


def output_errors(demo: DemoEngine, batch: Batch, settings: Sequence[SparseSettings], steps: int = STEPS) -> list[OutputError]:
    """On the tokens of a run that stays dense: every layer, step and branch."""
    request, cpu = demo.request(steps), torch.device("cpu")
    (network,) = demo.model.transformers.values()
    with measured(network, TOKENS, settings, cpu, kernel_of("gather")) as errors:
        generation = generate(
            request, demo.experts(batch), batch.conditioning, batch.noise, Guidance(request.plan(), request.guidance)
        )
        sums = [errors.sums.clone() for _ in generation]
    early = sums[steps * DENSE_STEPS // STEPS - 1]
    return [_output_error(early[:, i], sums[-1][:, i]) for i in range(len(settings))]


def _output_error(early: Tensor, whole: Tensor) -> OutputError:
    """Sums over calls, (layers, 4): squared differences, squared outputs, densities, calls."""

    def error(sums: Tensor) -> float:
        return float((sums[..., 0] / sums[..., 1]).sqrt().max())

    return OutputError(
        early=error(early.sum(0)),
        late=error((whole - early).sum(0)),
        worst_layer=error(whole),
        density=float(whole[:, 2].sum() / whole[:, 3].sum()),
    )


def video(demo: DemoEngine, batch: Batch, dense: Tensor, settings: SparseSettings, dense_steps: int, steps: int = STEPS) -> Video:
    """dense: (B, 17, 3, 64, 64), the frames of the dense run."""
    latents, report = sparse_latents(demo, batch, settings, dense_steps, steps)
    frames = demo.frames(latents)
    compared = [compare(reference, own).mean for reference, own in zip(dense, frames, strict=True)]
    return Video(
        ssim=statistics.fmean(quality.ssim for quality in compared),
        worst_ssim=min(quality.ssim for quality in compared),
        psnr=statistics.fmean(min(quality.psnr, 100.0) for quality in compared),
        shown=readings(batch.scenes, frames),
        density=report.density,
    )


def sparse_latents(
    demo: DemoEngine, batch: Batch, settings: SparseSettings, dense_steps: int, steps: int
) -> tuple[Tensor, SparseReport]:
    """Latents (B, 16, 5, 8, 8), of a model with one expert."""
    request = demo.request(steps)
    schedule = request.plan()
    sparse = SparseSchedule(settings=settings, dense_steps=dense_steps, kernel="gather")
    experts = SparseExperts(demo.experts(batch), schedule, sparse)
    *_, last = generate(request, experts, batch.conditioning, batch.noise, Guidance(schedule, request.guidance))
    (report,) = experts.reports()
    return last.latents, report
