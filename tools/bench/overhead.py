"""What it costs to ask workers for a call of the network, beyond the network: the demo's steps there against those here."""

import statistics
from dataclasses import dataclass
from typing import NamedTuple

from fastvideo_core import GuidanceSettings, Layout, SamplingRequest, WanModel, Workers, load_demo

STEPS = 20
GUIDED, PLAIN = 3.0, 1.0


class Steps(NamedTuple):
    """Seconds of the steps of one round, without the first."""

    here: tuple[float, ...]
    asked: tuple[float, ...]


@dataclass(frozen=True)
class Overhead:
    """Of so many workers, in rounds."""

    workers: int
    rounds: tuple[Steps, ...]

    @property
    def here(self) -> float:
        """Seconds, the median of all steps; as the following."""
        return statistics.median(second for each in self.rounds for second in each.here)

    @property
    def asked(self) -> float:
        return statistics.median(second for each in self.rounds for second in each.asked)

    @property
    def least(self) -> float:
        """Of the fastest step there above the fastest one here: what other work on the machine adds nothing to."""
        return min(min(each.asked) for each in self.rounds) - min(min(each.here) for each in self.rounds)


def run(rounds: int) -> list[Overhead]:
    """One worker has both branches in a call, as they are here; of two each has one, as a step without guidance has here."""
    model = load_demo("t2v")
    return [
        _measured(model, 1, Layout(), GUIDED, rounds),
        _measured(model, 2, Layout(cfg=2), PLAIN, rounds),
    ]


def _measured(model: WanModel, count: int, layout: Layout, here: float, rounds: int) -> Overhead:
    with Workers.local(workers=count, layout=layout) as workers:
        there = workers.take(model)
        _step_seconds(there, GUIDED)
        return Overhead(count, tuple(Steps(_step_seconds(model, here), _step_seconds(there, GUIDED)) for _ in range(rounds)))


def _step_seconds(model: WanModel, scale: float) -> tuple[float, ...]:
    size = model.video_size(width=64, height=64, frames=17)
    guidance = GuidanceSettings(mode="batched")
    request = SamplingRequest(steps=STEPS, shift=5.0, guidance_scale=scale, guidance=guidance)
    generation = model.generate(request, model.condition("a red circle moving right", "", size), size)
    list(generation)
    return tuple(generation.report().step_seconds[1:])
