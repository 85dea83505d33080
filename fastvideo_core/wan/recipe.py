"""What a few-step recipe is: the noise levels, update rule, guidance and experts with which a distilled model was trained.

Noise levels are those before the final 0, sigma in 0..1; a timestep is 1000 * sigma. The closed forms:
evenly: u = 1 - i / steps, shifted; listed: given timesteps; tan grid: sin(t) / (sin(t) + cos(t)) for t = atan(sigma_max), ... .
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import RequestError
from ..guidance import GuidanceSettings
from ..request import SamplingRequest
from ..schedule import TIMESTEPS, PhaseSettings, check_sigmas, plan_phases, shift_sigma, shifted_sigmas
from ..solvers import SolverName

Role = Literal["single", "high_noise", "low_noise"]
MIDDLE = (1.5, 1.4, 1.0)
"""Of the tan grid, after atan(sigma_max) (thu-ml/TurboDiffusion, turbodiffusion/inference/wan2.1_t2v_infer.py, mid_t)."""


@dataclass(frozen=True)
class Levels:
    """sigmas: steps + 1 noise levels, the last one 0; words: what they are made by. shift: None where it is no shift's."""

    sigmas: tuple[float, ...]
    words: str
    shift: float | None = None

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def evenly(steps: int, shift: float) -> Levels:
    return Levels(shifted_sigmas(steps, shift), f"{steps} steps, shift {shift:g}", shift)


def fed(timesteps: Sequence[int], shift: float) -> Levels:
    """Timesteps as they are: each one's level is the nearest of the training's 1000, which are shifted
    (hao-ai-lab/FastVideo, fastvideo/pipelines/stages/denoising.py, DMD)."""
    trained = [shift_sigma(k / TIMESTEPS, shift) for k in range(1, TIMESTEPS + 1)]
    levels = [min(trained, key=lambda level: abs(level - t / TIMESTEPS)) for t in timesteps]
    return Levels((*levels, 0.0), f"timesteps {_list(timesteps)}, each to the nearest of 1000 levels of shift {shift:g}")


def warped(timesteps: Sequence[int], shift: float) -> Levels:
    """Timesteps that are shifted."""
    levels = [shift_sigma(t / TIMESTEPS, shift) for t in timesteps]
    return Levels((*levels, 0.0), f"timesteps {_list(timesteps)}, shift {shift:g}")


def tan_grid(sigma_max: float, middle: Sequence[float] = MIDDLE) -> Levels:
    """Noise levels of TrigFlow as those of a straight flow."""
    angles = (math.atan(sigma_max), *middle)
    words = f"tan grid, sigma_max {sigma_max:g}, then {_list(middle)}"
    return Levels((*(math.sin(t) / (math.cos(t) + math.sin(t)) for t in angles), 0.0), words)


def virtual_base(steps: int, start: int, least: int, shift: float) -> Levels:
    """The first `start` of the steps in finer ones: as many steps of a virtual run of `least` steps or more as end on the very
    level where step `start` begins (VraethrDalkr/ComfyUI-TripleKSampler: base / total = start / steps)."""
    base = next(base for base in range(1, least * steps + 1) if base * steps % start == 0 and base * steps // start >= least)
    total = base * steps // start
    fine, coarse = shifted_sigmas(total, shift), shifted_sigmas(steps, shift)
    words = f"{base} of {total} virtual steps, then {steps - start} of {steps} steps, shift {shift:g}"
    return Levels((*fine[:base], *coarse[start:]), words, shift)


@dataclass(frozen=True, kw_only=True)
class RecipePhase:
    """until: as in `PhaseSettings`. base: whether the expert works without its distillation LoRA."""

    expert: Role = "single"
    until: float = 0.0
    guidance_scale: float = 1.0
    base: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table.

    networks: names of `VARIANTS`. source: repository and file of its authors, or of those who documented it.
    off: what must be off besides guidance. sparse: the sparse self-attention that it was trained with; empty for none.
    names: regular expressions that must all be found in the name of a file. tensors: such in the name of a tensor.
    any_steps: whether it was distilled for any number of steps, of which the levels are an example.
    note: what else there is to know. engine_only: why it does not run in ComfyUI; empty where it does.
    """

    name: str
    title: str
    networks: tuple[str, ...]
    levels: Levels
    solver: SolverName
    source: str
    phases: tuple[RecipePhase, ...] = (RecipePhase(),)
    off: tuple[str, ...] = ("step cache", "sparse attention")
    sparse: str = ""
    names: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    any_steps: bool = False
    note: str = ""
    engine_only: str = ""

    @property
    def experts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(phase.expert for phase in self.phases))

    @property
    def has_base(self) -> bool:
        """Whether an expert works without its LoRA in a phase."""
        return any(phase.base for phase in self.phases)

    @property
    def guidance_scale(self) -> float:
        """Of the phases in which the distilled model works."""
        return next(phase.guidance_scale for phase in self.phases if not phase.base)

    @property
    def boundary(self) -> float | None:
        """The level down to which the first expert works; None for one."""
        return None if len(self.experts) == 1 else [p.until for p in self.phases if p.expert == self.experts[0]][-1]

    @property
    def guided_until(self) -> float:
        """The level down to which guidance is on; 1 where it never is."""
        return min((phase.until for phase in self.phases if phase.guidance_scale != 1), default=1.0)

    def settings(self, loras: Sequence[str] = ()) -> tuple[PhaseSettings, ...]:
        """loras: names of the applied distillation LoRAs, which phases of the base leave out.

        Raises:
            RequestError: a phase is the base's, and no LoRA is named.
        """
        if self.has_base and not loras:
            raise RequestError(
                f"Recipe {self.name} begins without the distillation LoRA, and none is named: give the names under which "
                "apply_lora applied it, loras=[...], or take a recipe of two phases."
            )
        return tuple(
            PhaseSettings(
                expert=phase.expert, guidance_scale=phase.guidance_scale, until=phase.until, loras=_without(phase, loras)
            )
            for phase in self.phases
        )

    def request(self, seed: int = 0, *, loras: Sequence[str] = (), guidance: GuidanceSettings | None = None) -> SamplingRequest:
        """All that a generation needs. loras: as in `settings`. Raises RequestError as `settings`."""
        return SamplingRequest(
            steps=self.levels.steps,
            shift=self.levels.shift or 1.0,
            sigmas=self.levels.sigmas,
            phases=self.settings(loras),
            solver=self.solver,
            seed=seed,
            guidance=guidance or GuidanceSettings(),
        )

    def steps_of_phases(self) -> list[int]:
        phases = plan_phases(self.levels.sigmas, self.settings(("LoRA",) if self.has_base else ())).phases
        return [len(phase.steps) for phase in phases]

    def text(self) -> str:
        """As a person reads it."""
        levels = " ".join(f"{level:.5g}" for level in self.levels.sigmas)
        parts = [
            f"{phase.expert}{' without its LoRA' if phase.base else ''} {steps} steps, guidance {phase.guidance_scale:g}"
            for phase, steps in zip(self.phases, self.steps_of_phases(), strict=True)
        ]
        lines = [
            f"{self.name}: {self.title}",
            f"noise levels {levels} ({self.levels.words}), solver {self.solver}",
            "; ".join(parts),
            f"off: {', '.join(self.off)}" + (f"; trained with {self.sparse}" if self.sparse else ""),
            f"source: {self.source}",
        ]
        lines += [self.note] if self.note else []
        return "\n".join([*lines, *([f"does not run in ComfyUI: {self.engine_only}"] if self.engine_only else [])])


def _without(phase: RecipePhase, loras: Sequence[str]) -> Mapping[str, float]:
    return MappingProxyType(dict.fromkeys(loras, 0.0) if phase.base else {})


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
