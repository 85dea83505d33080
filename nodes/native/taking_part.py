"""What a run of our guiders and those who take part in it know of each other: step caches, attention, sparse self-attention,
compiled blocks. The run knows none of them, and none of them the run: another one touches no file of it.

Each stands on a MODEL as core's OUTER_SAMPLE wrapper, of which one call is one generation, and so acts under core's guiders too.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import comfy.samplers
from torch import Tensor

from fastvideo_core import Contribution, Guess, Phase, Schedule


class Participant(ABC):
    """One MODEL's part in one generation."""

    @property
    def skipped_steps(self) -> int:
        """So far: those in which it skipped what the network would have computed."""
        return 0

    def phase_over(self) -> None:
        """The MODEL's steps are over, for another's: what is held for them is freed. Another phase of it may come."""
        return None

    @abstractmethod
    def contribution(self, expert: str) -> Contribution:
        """What it did, as the report of this expert."""


class Run(Protocol):
    """A generation of our guiders."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def gate(self) -> float:
        """As in `GuidanceSettings`."""
        ...

    @property
    def recipes(self) -> Sequence[Guess]:
        """Those that its MODELs may be of."""
        ...

    @property
    def planned(self) -> bool:
        """Whether it knows in which phases a MODEL works; otherwise that goes by the MODEL."""
        ...

    @property
    def two_networks(self) -> bool:
        """Whether the model has two, in this run or in other parts of it."""
        ...

    def phases_of(self, guider: Any) -> tuple[Phase, ...]:
        """Those in which the MODEL of this guider works."""
        ...

    def level_of(self, timestep: Tensor) -> float:
        """The noise level of a call of the network, by core's timesteps (B,)."""
        ...

    def join(self, guider: Any, participant: Participant) -> None:
        """To be told of phases, and asked for the report."""
        ...


class ExpertGuider(comfy.samplers.CFGGuider):
    """One of our guiders; `run` is there while one is open."""

    run: Run

    def forget_run(self) -> None:
        """Core leaves these on a guider whose run failed: a network, and conditions on the device. ComfyUI keeps guiders."""
        for state in ("run", "inner_model", "conds", "loaded_models"):
            self.__dict__.pop(state, None)


def run_of(guider: Any) -> Run | None:
    """None for core's guiders, and those of other packs."""
    return guider.run if isinstance(guider, ExpertGuider) else None


@contextmanager
def taking_part(guider: Any, participant: Participant) -> Iterator[None]:
    """For one call of an OUTER_SAMPLE wrapper, which may change the guider's options in it: afterwards they are as before. What
    was done is told in our run's report, or in the log where the guider is another."""
    own_options, run = guider.model_options, run_of(guider)
    if run is not None:
        run.join(guider, participant)
    try:
        yield
    finally:
        guider.model_options = own_options
    if run is None:
        logging.info("%s", "\n".join(participant.contribution("single").lines()))
