"""Many generations on many workers: as `generate_many` with a model, but each whole in one worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import RequestError, StoppedError
from ..parallel.pool import Ended, Mapped, Pool
from ..state import GenerationState
from .loading.lora import LoraReport, apply_lora
from .loading.lora_strengths import applied_loras
from .many import EachStep, Job, ManyOutcomes, Outcome
from .model import WanModel
from .on_workers import check_elsewhere
from .rank import RankJob


@dataclass(frozen=True)
class ModelPool:
    """A model in each of several workers. model: what is here of it: it encodes prompts and decodes latents. owner: is kept alive
    with it."""

    model: WanModel
    pool: Pool
    owner: object

    def many(self, jobs: Mapping[str, Job], options: Mapping[str, Any], each_step: EachStep | None) -> "PooledGenerations":
        """As `generate_many`."""
        return PooledGenerations(self, jobs, options, each_step)

    def apply_lora(self, expert: str, path: Path | str, strength: float = 1.0, name: str | None = None) -> LoraReport:
        """As `apply_lora`, in all workers and here. path: a file that each machine has."""
        path = Path(path).absolute()
        for group in self.pool.groups:
            group.prepare("lora", [(expert, path, strength, name)])
        return apply_lora(self.model.transformers[expert], path, strength, name)

    def rank_job(self, job: Job, options: Mapping[str, Any]) -> RankJob:
        """What a worker is told of a job. Raises RequestError and others where it contradicts itself or the model."""
        generation = self.model.generate(job.request, job.conditioning, job.size, options["cache"], state=job.state)
        check_elsewhere(generation)
        return RankJob(
            name=self.model.name, title=self.model.title, request=job.request, conditioning=job.conditioning, size=job.size,
            cache=generation.cache, attention=options["attention"], sparse=options["sparse"], compile=options["compile"],
            state=job.state, loras={expert: applied_loras(each) for expert, each in self.model.transformers.items()},
        )  # fmt: skip


class PooledGenerations(ManyOutcomes):
    """How the jobs ended, in the order in which they did. Closing it early, an interrupt, or leaving it, ends the jobs at work;
    what was not ended is then in `states()`."""

    def __init__(self, pool: ModelPool, jobs: Mapping[str, Job], options: Mapping[str, Any], each_step: EachStep | None) -> None:
        self._jobs, self._each_step = jobs, each_step
        self._ended: set[str] = set()
        self._mapped: Mapped = pool.pool.map({name: partial(pool.rank_job, job, options) for name, job in jobs.items()})

    def __next__(self) -> Outcome:
        try:
            for event in self._mapped:
                if isinstance(event, Ended):
                    return self._outcome(event)
                if self._each_step is not None:
                    self._each_step(event.name, event.step)
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def cancel(self, name: str) -> None:
        """This job ends within two blocks, with a `StoppedError` as its outcome; the others go on."""
        if name not in self._jobs:
            raise RequestError(f"There is no job {name!r:.80}: there are {', '.join(self._jobs)}.")
        self._mapped.cancel(name)

    def close(self) -> None:
        self._mapped.close()

    def state(self, name: str) -> GenerationState | None:
        """It waits for the step at work."""
        if name in self._ended:
            return None
        state: GenerationState | None = self._mapped.state(name) or self._jobs[name].state
        return state

    def states(self) -> dict[str, GenerationState]:
        states = {name: self.state(name) for name in self._jobs}
        return {name: state for name, state in states.items() if state is not None}

    def _outcome(self, event: Ended) -> Outcome:
        job, error = self._jobs[event.name], event.error
        if not isinstance(error, StoppedError):
            self._ended.add(event.name)
        if error is not None:
            return Outcome(name=event.name, job=job, error=error)
        latents, report = event.result
        return Outcome(name=event.name, job=job, latents=latents, report=report)
