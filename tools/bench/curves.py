"""Speed against quality: what step caches save and what they change, over their settings, on the trained demo model.

For each clip the dense run and all contenders take turns, so that load on the machine befalls all of them alike.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvideo_core.pictures import Curve, Panel, plot
from fastvideo_core.quality import compare
from fastvideo_core.wan.demo import DemoKind
from tools.demo_model.engine import Batch, DemoEngine, demo_engine

from .curve_contenders import RIVALS, CurvePoint, curve_points

CASES: tuple[tuple[DemoKind, int], ...] = (("t2v", 20), ("t2v", 40), ("i2v", 20), ("two experts", 20))
CLIPS = 8


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip through one contender. cut: share of block calls saved; ratio: its seconds to those of the dense run."""

    cut: float
    ratio: float
    ssim: float
    psnr: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A contender with one setting in one case: means over the clips, of the time ratio the median."""

    case: str
    name: str
    setting: str
    cut: float
    ratio: float
    ssim: float
    worst_ssim: float
    psnr: float


class BlockCounter:
    """Counts the blocks that really compute, by their self-attention, whatever skips them."""

    def __init__(self, demo: DemoEngine) -> None:
        self.count = 0
        self._attentions = [block.attn1 for network in demo.model.transformers.values() for block in network.blocks]

    def __enter__(self) -> "BlockCounter":
        self._hooks = [attention.register_forward_pre_hook(self._add) for attention in self._attentions]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _add(self, *_: object) -> None:
        self.count += 1

    def taken(self) -> int:
        """Since the last time."""
        count, self.count = self.count, 0
        return count


def run(clips: int = CLIPS) -> list[Point]:
    points = []
    for kind, steps in CASES:
        demo = demo_engine(kind)
        contenders, whole = curve_points(demo, demo.request(steps).plan()), demo.batch(clips)
        with BlockCounter(demo) as counter:
            _generated(demo, steps, whole.single(0), None, counter)  # what a process does once
            rows = [_clip(demo, steps, whole.single(index), contenders, counter) for index in range(clips)]
        samples = zip(contenders, zip(*rows, strict=True), strict=True)
        points += [_point(f"{kind}, {steps} steps", contender, own) for contender, own in samples]
        print(f"{kind}, {steps} steps: done", flush=True)
    return points


def _clip(demo: DemoEngine, steps: int, batch: Batch, contenders: Sequence[CurvePoint], counter: BlockCounter) -> list[Sample]:
    """One clip through all contenders."""
    dense, seconds, blocks = _generated(demo, steps, batch, None, counter)
    runs = [_generated(demo, steps, batch, contender, counter) for contender in contenders]
    reference, *videos = demo.frames(torch.cat([dense, *(latents for latents, _, _ in runs)]))
    samples = []
    for (_, own_seconds, own_blocks), video in zip(runs, videos, strict=True):
        quality = compare(reference, video).mean
        ratio = own_seconds / seconds
        samples.append(Sample(cut=1 - own_blocks / blocks, ratio=ratio, ssim=quality.ssim, psnr=min(quality.psnr, 100.0)))
    return samples


def _generated(
    demo: DemoEngine, steps: int, batch: Batch, contender: CurvePoint | None, counter: BlockCounter
) -> tuple[Tensor, float, int]:
    """Latents, seconds and blocks that ran."""
    request = demo.request(steps)
    counter.taken()
    started = time.perf_counter()
    if contender is None:
        latents = demo.latents(request, batch)
    else:
        with contender.opened(request.plan()) as cache:
            latents = demo.latents(request, batch, cache)
    return latents, time.perf_counter() - started, counter.taken()


def _point(case: str, contender: CurvePoint, samples: Sequence[Sample]) -> Point:
    def mean(name: str) -> float:
        return statistics.fmean(getattr(sample, name) for sample in samples)

    return Point(
        case=case,
        name=contender.name,
        setting=contender.setting,
        cut=mean("cut"),
        ratio=statistics.median(sample.ratio for sample in samples),
        ssim=mean("ssim"),
        worst_ssim=min(sample.ssim for sample in samples),
        psnr=mean("psnr"),
    )


def beaten(points: Sequence[Point]) -> list[Point]:
    """The rivals' points to which ours has none with as many block calls saved and as high an SSIM: where the claim fails."""
    failed = []
    for ours, rival in RIVALS.items():
        for point in points:
            own = [p for p in points if p.name == ours and p.case == point.case]
            if point.name == rival and not any(p.cut >= point.cut and p.ssim >= point.ssim for p in own):
                failed.append(point)
    return failed


def panels(points: Sequence[Point]) -> list[Panel]:
    """SSIM over block calls saved, one panel per case."""
    made = []
    for case in dict.fromkeys(point.case for point in points):
        rows = [point for point in points if point.case == case]
        curves = [
            Curve(name=name, points=sorted((100 * row.cut, row.ssim) for row in rows if row.name == name))
            for name in dict.fromkeys(row.name for row in rows)
        ]
        made.append(Panel(title=case, x="% of the block calls saved", y="mean SSIM to the dense video", curves=curves))
    return made


def picture(points: Sequence[Point]) -> Tensor:
    return plot(panels(points))
