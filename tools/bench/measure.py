"""Contenders take turns, so that whatever else the machine does befalls all of them alike."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .clock import peak_bytes, timed
from .contenders import Contender


@dataclass(frozen=True, kw_only=True)
class Result:
    """seconds: per run, in order; ratios: to the floor's run of the same round; outside: fraction of each run outside the
    network; peak_bytes: above what was held before the run; difference: relative L2 distance of the latents from the first
    contender's that has any, or None."""

    name: str
    floor: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    outside: tuple[float, ...]
    peak_bytes: int
    difference: float | None


def measure(contenders: Sequence[Contender], rounds: int, device: torch.device) -> list[Result]:
    """Warms each contender up, then runs all of them `rounds` times, starting each round with the next one."""
    videos = {contender.name: contender.run() for contender in contenders}
    peaks = {contender.name: peak_bytes(contender.run, device) for contender in contenders}
    times: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
    for turn in range(rounds):
        start = turn % len(contenders)
        for contender in [*contenders[start:], *contenders[:start]]:
            times[contender.name].append(timed(contender.run, contender.network, device))
    reference = next(video for video in videos.values() if video is not None)
    return [
        Result(
            name=contender.name,
            floor=contender.floor,
            seconds=tuple(seconds for seconds, _ in times[contender.name]),
            ratios=tuple(own / floor for (own, _), (floor, _) in zip(times[contender.name], times[contender.floor], strict=True)),
            outside=tuple(1 - inside / seconds for seconds, inside in times[contender.name]),
            peak_bytes=peaks[contender.name],
            difference=distance(videos[contender.name], reference),
        )
        for contender in contenders
    ]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def distance(video: Tensor | None, reference: Tensor) -> float | None:
    if video is None:
        return None
    video, reference = video.double().cpu(), reference.double().cpu()
    return float((video - reference).norm() / reference.norm())
