"""Measured generations as rows of a table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ab import Measured
from ..quality import Comparison, FrameQuality
from ..report import RunReport, share_computed
from ..report.step_times import StepTimes
from ..speed import Speed

Joined = Callable[[Sequence[float]], float]

HEAD = (
    "case", "sampling", "with text and VAE", "speed-up", "branch steps skipped", "block calls saved", "attention computed",
    "PSNR mean / worst", "SSIM mean / worst", "LPIPS mean / worst", "motion to dense", "peak memory", "held by the cache",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """Means over the seeds. seconds: of sampling, as in `StepTimes`; clip_seconds: with text and VAE. speed: None for the dense
    row. skipped, asked: branch steps. block_cut: the share of block calls saved. density: the share of self-attention that sparse
    generations computed, None where it was not sparse. mean, worst: None for the dense row. motion: the ratio to the dense
    videos', None for the dense row and where those do not move. peak_bytes: None
    where it is not counted."""

    name: str
    seconds: float
    clip_seconds: float
    speed: Speed | None
    skipped: int
    asked: int
    block_cut: float
    density: float | None
    mean: FrameQuality | None
    worst: FrameQuality | None
    motion: float | None
    peak_bytes: int | None
    held_bytes: int

    @classmethod
    def of(
        cls,
        name: str,
        runs: Sequence[Measured],
        quality: Sequence[Comparison],
        text_seconds: float,
        speed: Speed | None = None,
    ) -> "Row":
        reports = [run.report for run in runs]
        seconds = StepTimes.of(reports).total().middle / len(runs)
        peaks = [report.peak_memory_bytes for report in reports if report.peak_memory_bytes is not None]
        caches = [cache for report in reports for cache in report.caches]
        ran, blocks = sum(cache.blocks_ran for cache in caches), sum(cache.blocks_asked for cache in caches)
        return cls(
            name=name,
            seconds=seconds,
            clip_seconds=text_seconds + seconds + _mean([run.decode_seconds for run in runs]),
            speed=speed,
            skipped=sum(row.skipped for cache in caches for row in cache.phases),
            asked=sum(_branch_steps(report) for report in reports),
            block_cut=1 - ran / blocks if blocks else 0.0,
            density=share_computed([sparse for report in reports for sparse in report.sparse]),
            mean=_joined([each.mean for each in quality], _mean, _mean),
            worst=_joined([each.worst for each in quality], min, max),
            motion=_motion(quality),
            peak_bytes=max(peaks, default=None),
            held_bytes=max((cache.peak_bytes for cache in caches), default=0),
        )

    def cells(self) -> list[str]:
        mean, worst = self.mean, self.worst
        return [
            self.name,
            f"{self.seconds:.2f} s",
            f"{self.clip_seconds:.2f} s",
            "" if self.speed is None else self.speed.text(),
            f"{self.skipped} of {self.asked}",
            f"{self.block_cut:.0%}",
            "" if self.density is None else f"{self.density:.0%}",
            "" if mean is None or worst is None else f"{mean.psnr:.1f} / {worst.psnr:.1f} dB",
            "" if mean is None or worst is None else f"{mean.ssim:.4f} / {worst.ssim:.4f}",
            "" if mean is None or worst is None or mean.lpips is None else f"{mean.lpips:.4f} / {worst.lpips:.4f}",
            "" if self.motion is None else f"{self.motion:.3f}",
            "" if self.peak_bytes is None else f"{self.peak_bytes / 2**30:.2f} GiB",
            f"{self.held_bytes / 2**20:.1f} MiB",
        ]


def markdown(rows: Sequence[Row]) -> str:
    """With columns of one width each, so that it reads as text too; without those that are empty."""
    table = [list(HEAD), *(row.cells() for row in rows)]
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in zip(*columns, strict=True)]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _branch_steps(report: RunReport) -> int:
    """How often a branch was asked of the network."""
    return sum(int(size) * count for phase in report.phases for size, count in phase.calls.items())


def _motion(found: Sequence[Comparison]) -> float | None:
    """Of the seeds whose dense videos move, weighted by how much they do."""
    moving = [each.motion for each in found if each.motion is not None and each.motion.ratio is not None]
    dense = sum(each.reference.magnitude or 0.0 for each in moving)
    return sum(each.candidate.magnitude or 0.0 for each in moving) / dense if moving else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _joined(found: Sequence[FrameQuality], least: Joined, most: Joined) -> FrameQuality | None:
    """Of several seeds. least: for what is better when high (PSNR, SSIM); most: for what is better when low (LPIPS)."""
    if not found:
        return None
    distances = [each.lpips for each in found if each.lpips is not None]
    return FrameQuality(
        psnr=least([each.psnr for each in found]),
        ssim=least([each.ssim for each in found]),
        lpips=most(distances) if distances else None,
    )
