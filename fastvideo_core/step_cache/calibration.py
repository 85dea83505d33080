"""Measuring a ratio table: one dense generation, and at the seam the norm of each step's residual against the last one's."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..conditioning import Conditioning
from ..errors import NumericsError, RequestError
from ..generate import Step, generate
from ..guidance import Branch, Guidance
from ..report import CacheReport
from ..request import SamplingRequest
from ..schedule import Phase, Schedule
from ..wan.at_work import check_idle
from ..wan.loading.keys import original_keys
from ..wan.loading.lora_change import before_loras, tensors_of
from .decisions import CachePlan
from .experts import CachedExperts
from .fingerprint import Fingerprint, fingerprint, joined_name
from .ratios import PerStep, PhaseRatios, RatioTable
from .session import BlockwiseSession, Sums, cache_report

if TYPE_CHECKING:
    from ..wan.denoiser import WanExperts


class StepRatio(NamedTuple):
    """A step's residual r against that of the step before, p, over the tokens: mean and standard deviation of |r| / |p|,
    mean of 1 - cos(r, p)."""

    ratio: float
    deviation: float
    cosine_distance: float


FIRST = StepRatio(1.0, 0.0, 0.0)
"""Of the first step of a phase, which has none before it."""


def step_ratio(residual: Tensor, previous: Tensor) -> StepRatio:
    """residual, previous: (B, L, D)."""
    residual, previous = residual.float(), previous.float()
    ratios = residual.norm(dim=-1) / previous.norm(dim=-1)
    distance = 1 - cosine_similarity(residual, previous, dim=-1)
    return StepRatio(float(ratios.mean()), float(ratios.std(correction=0)), float(distance.mean()))


class RatioMeter(BlockwiseSession):
    """Measures one phase; every call runs."""

    def __init__(self) -> None:
        super().__init__()
        self.measured: dict[Branch, list[StepRatio]] = {}
        self._residuals: dict[Branch, Tensor] = {}
        self._branches: tuple[Branch, ...] = ()
        self._before: Tensor | None = None

    def share(self, sums: Sums, decides: tuple[Branch, ...] | None = None) -> None:
        raise RequestError("A ratio table was to be measured on several ranks: calibrate on one GPU, and use the table on any.")

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        self._branches = branches

    def withdraw(self) -> None:
        self._branches, self._before = (), None

    def block(self, index: int, count: int, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        if index == 0:
            self._before = x if self._branches else None
        out = run(x)
        if index == count - 1 and self._before is not None:
            self._measure(self._before, out)
            self._branches, self._before = (), None
        return out

    def _measure(self, before: Tensor, after: Tensor) -> None:
        """before, after: (branches * B, L, D) around the blocks."""
        count = len(self._branches)
        for branch, x, out in zip(self._branches, before.chunk(count), after.chunk(count), strict=True):
            residual, previous = out - x, self._residuals.get(branch)
            self.measured.setdefault(branch, []).append(FIRST if previous is None else step_ratio(residual, previous))
            self._residuals[branch] = residual

    def forget(self, branches: Iterable[Branch]) -> None:
        """What changes there is measured, too."""

    def close(self) -> None:
        self._residuals.clear()
        self._before = None


class Calibration:
    """Measures one generation, to be run through `CachedExperts` as a cache that never skips."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._meters: dict[Phase, RatioMeter] = {}

    @contextmanager
    def session(self, phase: Phase) -> Iterator[RatioMeter]:
        meter = self._meters[phase] = RatioMeter()
        try:
            yield meter
        finally:
            meter.close()

    def phases(self) -> tuple[PhaseRatios, ...]:
        """What was measured, phase by phase; see `phase`."""
        return tuple(self.phase(phase) for phase in self.schedule.phases)

    def phase(self, phase: Phase) -> PhaseRatios:
        """What was measured in one phase.

        Raises:
            RequestError: a branch did not run in every step of a phase, or the generation did not end.
            NumericsError: a residual was zero or not finite.
        """
        measured = self._meters[phase].measured if phase in self._meters else {}
        if not measured or any(len(rows) != len(phase.steps) for rows in measured.values()):
            counts = ", ".join(f"{branch} {len(rows)}" for branch, rows in measured.items()) or "none"
            raise RequestError(
                f"A calibration needs each branch once in each of the {len(phase.steps)} steps of the {phase.expert} expert; "
                f"measured: {counts}. Let the generation run to its end, with guidance gate 1."
            )
        if not all(math.isfinite(value) for rows in measured.values() for row in rows for value in row):
            raise NumericsError(f"The {phase.expert} expert's residuals are zero or not finite: there is nothing to calibrate.")
        return PhaseRatios(
            expert=phase.expert,
            sigmas=self.schedule.sigmas[phase.start : phase.stop],
            ratios=_column(measured, "ratio"),
            deviation=_column(measured, "deviation"),
            cosine_distance=_column(measured, "cosine_distance"),
        )

    def report(self) -> CacheReport:
        """That it skips nothing."""
        return cache_report(
            CachePlan("MagCache calibration", (), "each step computes and is measured."), {}, self._meters.values()
        )


def _column(measured: Mapping[Branch, list[StepRatio]], name: str) -> PerStep:
    return {branch: tuple(round(getattr(row, name), 5) for row in rows) for branch, rows in measured.items()}


def calibrate(
    request: SamplingRequest,
    experts: "WanExperts",
    conditioning: Conditioning,
    noise: Tensor,
    each_step: Callable[[Step], None] | None = None,
) -> RatioTable:
    """Runs one dense generation and measures it. The table's name is the hash of the weights.

    Args:
        noise: (B, C, T, H, W) float32, standard normal.
        each_step: is told of each step done.

    Raises:
        RequestError: the request has phases of its own, or the guidance a gate, behind which the negative branch would not be
            measured.
    """
    if request.phases is not None:
        raise RequestError(
            "The request has phases, and a ratio table is of one expert from noise to video, or of two with one boundary. "
            "Calibrate with a guidance_scale, and for two experts a boundary; the table then serves any phases."
        )
    if request.guidance.gate < 1:
        raise RequestError(f"gate is {request.guidance.gate:g}: a calibration measures both branches in every step. Set it to 1.")
    schedule = request.plan()
    calibration = Calibration(schedule)
    for step in generate(
        request, CachedExperts(experts, schedule, calibration), conditioning, noise, Guidance(schedule, request.guidance)
    ):
        if each_step is not None:
            each_step(step)
    dtype = next(iter(experts.transformers.values())).dtype
    return measured_table(fingerprints(experts.transformers), request, calibration.phases(), dtype, noise.shape)


def measured_table(
    weights: Sequence[Fingerprint],
    request: SamplingRequest,
    phases: Sequence[PhaseRatios],
    dtype: torch.dtype,
    latent_shape: Sequence[int],
) -> RatioTable:
    """The table of one generation. weights: of each expert; phases: what was measured, one for each of the request's."""
    schedule = request.plan()
    levels = [schedule.sigmas[phase.start : phase.stop] for phase in schedule.phases]
    return RatioTable(
        name=joined_name(weights),
        weights=tuple(weights),
        sigmas=schedule.sigmas,
        shift=request.shift if request.sigmas is None else None,
        boundary=request.boundary,
        phases=tuple(replace(phase, sigmas=own) for phase, own in zip(phases, levels, strict=True)),
        source={
            "measured": "one dense generation",
            "dtype": str(dtype).removeprefix("torch."),
            "latents": "x".join(map(str, latent_shape)),
            "guidance_scales": ", ".join(f"{phase.guidance_scale:g}" for phase in schedule.phases),
            "solver": request.solver,
            "seed": str(request.seed),
        },
    )


def fingerprints(transformers: Mapping[str, nn.Module]) -> tuple[Fingerprint, ...]:
    """Of each expert's `WanTransformer3DModel`, in order, the low-noise one's last. LoRAs do not change them: a table serves its
    checkpoint with any of them.

    Raises:
        RequestError: a network is at work: then it has other modules in the place of its own.
    """
    networks = [transformers[expert] for expert in in_order(transformers)]
    for network in networks:
        check_idle(network, "The weights' hash was asked for, the name of a ratio table")
    return tuple(fingerprint(original_keys(before_loras(tensors_of(network)))) for network in networks)


def in_order(experts: Iterable[str]) -> list[str]:
    """In which tables name them."""
    return sorted(experts, key=lambda expert: expert == "low_noise")


def weights_hash(transformers: Mapping[str, nn.Module]) -> str:
    """The name of a table: the networks' hashes, joined by an underscore."""
    return joined_name(fingerprints(transformers))
