"""Where a step's time goes, in diffusers' plain calls and in the engine, and which part of the machine's rate both reach."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvideo_core.wan.loading import load_transformer

from .attribution import Parts, attributed
from .clock import wait
from .contenders import Task, bare_calls, engine
from .flops import computed_flops, flops_of_call
from .peak import Peak, matmul_peak
from .sizes import SIZES, write_weights

PLAIN, ENGINE = "plain calls", "engine"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A contender. parts: seconds per step, of the median run; seconds: per step without the clocks, median; hooks: how much
    longer a run with the clocks takes, median over rounds; asked, computed: FLOP per step, of the plain network and counted."""

    name: str
    parts: Parts
    seconds: float
    hooks: float
    asked: float
    computed: float


@dataclass(frozen=True)
class Run:
    """A run with the clocks, and one beside it without."""

    parts: Parts
    seconds: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def run(device: str, size: str, steps: int, rounds: int) -> tuple[list[Profile], Peak]:
    """Each round measures the machine's peak and both contenders, so that other load befalls all of them."""
    task = Task(SIZES[size], steps, torch.device(device))
    with tempfile.TemporaryDirectory() as folder:
        network = load_transformer(write_weights(task.size, Path(folder)), task.size.dtype).to(task.device)
    contenders = {PLAIN: bare_calls(task, network, branches=2), ENGINE: engine(task, network, "batched")}
    computed = {name: computed_flops(each) / steps for name, each in contenders.items()}  # warms up too
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    peaks = []
    for _ in range(rounds):
        peaks.append(matmul_peak(task.device, task.size.dtype))
        for name, each in contenders.items():
            runs[name].append(Run(attributed(each, network, task.device), seconds_of(each, task.device)))
    asked = flops_of_call(network, (2, *task.size.shape[1:]), text_rows=512)
    return [_profile(name, runs[name], steps, asked, computed[name]) for name in contenders], max(peaks)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def _profile(name: str, runs: list[Run], steps: int, asked: float, computed: float) -> Profile:
    median = sorted(runs, key=lambda each: each.total)[len(runs) // 2]
    return Profile(
        name=name,
        parts={part: seconds / steps for part, seconds in median.parts.items()},
        seconds=statistics.median(each.seconds for each in runs) / steps,
        hooks=statistics.median(each.total / each.seconds for each in runs) - 1,
        asked=asked,
        computed=computed,
    )
