"""One generation of a `WanModel`, as an object that is iterated; afterwards it tells what ran."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import torch

from ..attention.experts import AttentionSettings
from ..attention.sparse import SparseSchedule
from ..conditioning import Conditioning
from ..generate import Step, Turn, check_experts, check_finite, generate, seeded_noise, turns
from ..guidance import Guidance
from ..report import RunReport, phase_reports, ran_as
from ..request import SamplingRequest, VideoSize
from ..solvers import make_solver
from ..state import GenerationState, Moment, about_run, conditioning_digest, go_on
from ..step_cache.aside import unless
from ..step_cache.decisions import CachePlan
from ..step_cache.session import StepCache
from .compiled import CompileSettings
from .flow_map import check_solver
from .given_options import check_options
from .identity import NetworkIdentity, check_as_before
from .linear import LinearAccount
from .loading.lora_strengths import check_strengths
from .loading.trained_attention import trained_with, unused_training
from .memory import compute_dtype
from .parts import Parts, Transformers
from .placement import MoveAccount
from .recipe_checks import told_of_guesses, why_no_cache
from .recipe_marks import Guess, recognised_by_loras
from .working import Work, Working


class WorkingModel(Parts, Protocol):
    """A `WanModel`, whose experts can be set to work."""

    def working(self, transformers: Transformers, work: Work) -> Working: ...


class Generation(Iterator[Step]):
    """`for step in generation`; then `latents` is the video (B, C, T, H, W) and `report()` the account. Between two steps
    `state()` is what another one goes on from. Closing it early, or leaving it (`break`, an exception), leaves no weights on
    the device and no memory with the cache. While it is open, between its first step and its last, the networks are its own:
    another generation of them, LoRAs and the like are refused. Between two `turn`s they are free."""

    def __init__(
        self,
        model: WorkingModel,
        request: SamplingRequest,
        conditioning: Conditioning,
        size: VideoSize,
        cache: "NewCache | None" = None,
        attention: AttentionSettings | None = None,
        sparse: SparseSchedule | None = None,
        compile: CompileSettings | None = None,
        state: GenerationState | None = None,
    ) -> None:
        check_options(request, conditioning, cache, attention=attention, sparse=sparse, compile=compile, state=state)
        self.model = model
        self.request = request
        self.conditioning = conditioning
        self.size = size
        latent_shape = size.latent_shape(next(iter(model.transformers.values())).config.out_channels)
        self.guidance = Guidance(request.plan(), request.guidance)
        check_experts(self.guidance.schedule, model.transformers)
        self.transformers = {phase.expert: model.transformers[phase.expert] for phase in self.guidance.schedule.phases}
        for phase in self.guidance.schedule.phases:
            check_strengths(self.transformers[phase.expert], phase.loras)
        self.latents = seeded_noise(latent_shape, request.seed, model.device)
        self._solver = make_solver(request.solver, self.guidance.schedule.sigmas, request.seed)
        self.step_seconds: list[float] = []
        self._before, self._first, self._last = 0.0, 0.0, 0.0  # seconds of earlier turns; when this one began, and its last step
        self._peak: int | None = None
        check_solver(self.transformers, request.solver)
        self._linears, self._moves = LinearAccount(), MoveAccount()
        self._resumed, self._open, self._aside = state, False, False
        self._identify()
        if state is not None:
            self._go_on(state)
        self._moment = self._now(0 if state is None else state.step)
        self._trained = [variant for network in self.transformers.values() for variant in trained_with(network)]
        self._cache = None if cache is None else cache(self)
        self.working = model.working(self.transformers, Work(
            schedule=self.guidance.schedule, conditioning=conditioning, latent_shape=latent_shape, attention=attention,
            sparse=sparse, compile=compile, linears=self._linears, moves=self._moves,
        ))  # fmt: skip
        self._steps = self._left()

    def _left(self) -> Generator[Step, None, None]:
        """The steps that are left. Nothing in it refers to this object: left without an end, both are gone at once, and the
        network is free."""
        moment, experts = self._moment, self.working.experts(self.cache)
        return generate(self.request, experts, self.conditioning, moment.latents, self.guidance, self._solver, moment.step)

    @property
    def cache(self) -> StepCache | None:
        """It stands aside where the model is of a few-step recipe that has no use for it."""
        if self._cache is None:
            return None
        return unless(why_no_cache(self._recipes, self.guidance.schedule), self._cache)

    @property
    def _recipes(self) -> tuple[Guess, ...]:
        """Those of which the model is by the names of its LoRAs and its own."""
        loras = [lora for network in self._networks.values() for lora in network.loras]
        return recognised_by_loras(self.model.name, loras, self.request.settings, len(self.transformers))

    def _identify(self) -> None:
        """Again at the first step: until then the networks are not its own, and LoRAs may come."""
        self._networks = {expert: NetworkIdentity.of(network) for expert, network in self.transformers.items()}
        vars(self).pop("about", None)
        if self._resumed is not None:
            self._resumed.check(self.about)

    def _go_on(self, state: GenerationState) -> None:
        self._linears.take(state.about["linears"])
        self.latents = go_on(state, self._solver, self.guidance, self.model.device)

    def _now(self, step: int) -> Moment:
        """step: the next one."""
        return Moment.of(step, self.latents, self._solver, self.guidance)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """What a state of it is of. It waits for the device."""
        return about_run(
            self.guidance.schedule,
            solver=self.request.solver,
            seed=self.request.seed,
            guidance=self.request.guidance,
            latent_shape=self.latents.shape,
            weights={expert: network.json() for expert, network in self._networks.items()},
            conditioning=conditioning_digest(self.conditioning),
        )

    def state(self) -> GenerationState:
        """After the last step that it made, or before the first: `WanModel.generate(..., state=...)` goes on from it as if
        nothing had been between, also in another process. It may be asked for after an interrupt, an error or `close`, and
        waits for the device.

        Raises:
            NumericsError: the latents are not finite.
        """
        return self._moment.state({**self.about, "linears": self._linears.json()})

    @property
    def turns_left(self) -> tuple[Turn, ...]:
        """With the one at work."""
        return turns(self.guidance.schedule, self._moment.step)

    def turn(self) -> Iterator[Step]:
        """The steps of one expert's phases in a row. Afterwards the networks are free, also for other generations, and what
        the next turn goes on from waits on the CPU. The video is the same as without a break, bit by bit.

        Raises:
            NumericsError: the latents are not finite after it. All else as its steps.
        """
        left = self.turns_left
        for step in self:
            yield step
            if left[1:] and step.index + 1 == left[0].stop:
                break
        if left[1:]:
            self._set_aside()

    def _set_aside(self) -> None:
        self._steps.close()
        self._hold(torch.device("cpu"))
        check_finite(self.latents, "The generation")
        self._open, self._aside = False, True

    def _hold(self, device: torch.device) -> None:
        """All that it goes on from on `device`, and nothing elsewhere."""
        self._solver = make_solver(self.request.solver, self.guidance.schedule.sigmas, self.request.seed)
        self._moment = self._moment.at_turn(self._solver, self.guidance, device)
        self.latents = self._moment.latents

    def _begin(self) -> None:
        if self._aside:
            self._aside = False
            check_as_before(self.transformers, self._networks)
            self._hold(self.model.device)
        else:
            self._identify()
        self._steps = self._left()
        self._open = True
        self._before += self._last - self._first
        self._first = self._last = time.perf_counter()
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)

    def __next__(self) -> Step:
        if not self._open:
            self._begin()
        step = next(self._steps)
        self.latents = step.latents
        self._moment = self._now(step.index + 1)
        self.step_seconds.append(step.seconds)
        self._last = time.perf_counter()
        peak = self.working.peak_bytes()
        self._peak = None if peak is None else max(self._peak or 0, peak)
        return step

    def plan(self) -> CachePlan | None:
        """What the cache will do, as far as it is known before the run: None without a cache, or where it decides by what it
        sees. Guidance mode auto counts as batched."""
        guidance = self.request.guidance
        return None if self.cache is None else self.cache.plan(guidance.mode != "sequential", guidance.gate, self._first_step)

    @property
    def _first_step(self) -> int:
        return 0 if self._resumed is None else self._resumed.step

    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each setting that does not fit the few-step recipe of which the model is by the names of its LoRAs and
        its own; see `recognised`. It may be asked for before the first step."""
        on = {"cache": self._cache is not None, "sparse": self.working.work.sparse is not None}
        return told_of_guesses(self._recipes, self.guidance.schedule, self.request.solver, **on)

    def close(self) -> None:
        """Ends it before its last step."""
        self._steps.close()
        self._aside = False

    def report(self) -> RunReport:
        """What ran so far."""
        mode, reason = ran_as(self.guidance)
        transformer = next(iter(self.model.transformers.values()))
        told = self.working.contribution()
        return RunReport(
            model=self.model.name,
            variant=self.model.title,
            solver=self.request.solver,
            sigmas=self.guidance.schedule.sigmas,
            guidance_mode=mode,
            guidance_reason=reason,
            phases=phase_reports(self.guidance),
            latent_shape=tuple(self.latents.shape),
            device=self.working.device,
            dtype=str(compute_dtype(transformer)).removeprefix("torch."),
            seed=self.request.seed,
            step_seconds=tuple(self.step_seconds),
            total_seconds=self._before + self._last - self._first,
            peak_memory_bytes=self._peak,
            caches=() if self.cache is None else (self.cache.report(),),
            attention=told.attention,
            sparse=told.sparse,
            texts=told.texts,
            networks=len(self._moves.networks),
            moves=self._moves.moves,
            first_step=self._first_step,
            patches=() if self.working.work.compile is None else ("torch.compile",),
            notes=(
                *self._resumed_notes(),
                *unused_training(self._trained, told.sparse),
                *self._linears.notes(),
                *self.contradictions(),
                *told.notes,
            ),
        )

    def _resumed_notes(self) -> Iterator[str]:
        if self._resumed is None:
            return
        caches = () if self.cache is None else (self.cache.report(),)
        anew = ", ".join(cache.name for cache in caches if not cache.aside)
        yield f"resumed at step {self._resumed.step}" + (f": {anew} began anew" if anew else "")
        if self._resumed.about["conditioning"] != self.about["conditioning"]:
            yield "the conditioning is another one than that of the steps before"


NewCache = Callable[[Generation], StepCache]
"""Makes a fresh step cache for a generation that is about to run: see `with_magcache`."""
