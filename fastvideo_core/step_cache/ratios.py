"""Ratio tables: how the residual of a network shrinks from step to step, measured once, with where it was measured.

The residual is what the blocks add to the tokens: x after the last block minus x before the first.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..checks import number, one_of
from ..errors import LoadError, RequestError
from ..guidance import BOTH, Branch
from ..json_object import made_of, read_json_file
from ..schedule import at_least, check_shift, plan, shifted_sigmas
from .fingerprint import SAME, Fingerprint, read_fingerprint
from .settings import MagCacheSettings

EXPERTS = ("single", "high_noise", "low_noise")
"""The names under which tables hold them."""
PerStep = Mapping[Branch, tuple[float, ...]]
"""One number per step of a phase, for each branch."""
Networks = Mapping[str, Fingerprint]
"""Experts by name, and the weights of each."""


@dataclass(frozen=True, kw_only=True)
class PhaseRatios:
    """One phase of a dense generation.

    sigmas: the noise level of each step.
    ratios: mean over the tokens of the residual's norm over that of the step before; 1 in the first step.
    deviation: standard deviation of the same over the tokens. cosine_distance: mean of 1 - cos of the angle between the two
        residuals. Both are empty where the source does not state them.
    """

    expert: str
    sigmas: tuple[float, ...]
    ratios: PerStep
    deviation: PerStep = field(default_factory=dict)
    cosine_distance: PerStep = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(math.isfinite(ratio) and ratio > 0 for row in self.ratios.values() for ratio in row):
            raise LoadError(f"A ratio table has ratios of the {self.expert} expert that are not positive. Calibrate again.")
        for values in (self.ratios, self.deviation, self.cosine_distance):
            for branch, row in values.items():
                if len(row) != len(self.sigmas):
                    raise LoadError(
                        f"A ratio table has {len(row)} values for {len(self.sigmas)} steps of the {self.expert} expert's "
                        f"{branch} branch. Calibrate again."
                    )


@dataclass(frozen=True, kw_only=True)
class RatioTable:
    """sigmas: steps + 1 noise levels of the generation it was measured in. shift: of these, None for another scheduler.
    boundary: where the experts changed, None for a single one. source: where the numbers come from, in words.
    presets: settings that its authors recommend, by name. weights: of each expert it was measured on, the high-noise one's first;
    published tables do not tell them."""

    name: str
    sigmas: tuple[float, ...]
    shift: float | None
    boundary: float | None
    phases: tuple[PhaseRatios, ...]
    source: Mapping[str, str]
    presets: Mapping[str, MagCacheSettings] = field(default_factory=dict)
    weights: tuple[Fingerprint, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def row(self, expert: str, level: float, network: Fingerprint | None = None) -> PhaseRatios:
        """What was measured of an expert, whatever its name: on its weights; else the row of its name; else that of its noise
        level.

        Args:
            level: noise level on which it begins to work.
            network: its weights; None where they are not known.

        Raises:
            RequestError: none of the rows is its.
        """
        here = expert if expert in EXPERTS else self._expert_at(level)
        like = [
            row for weights, row in zip(self.weights, self.phases, strict=False) if network and network.agreement(weights) >= SAME
        ]
        if like:
            return min(like, key=lambda row: row.expert != here)
        if network is not None and self.weights and expert not in EXPERTS:
            raise RequestError(
                f"The ratio table {self.name} was measured on other weights than those of the expert {expert} ({network.name}). "
                "Use the table of this model, or calibrate it."
            )
        return self.phase(here)

    def _expert_at(self, level: float) -> str:
        if self.boundary is None:
            return "single"
        return "high_noise" if at_least(level, self.boundary) else "low_noise"

    def phase(self, expert: str) -> PhaseRatios:
        for phase in self.phases:
            if phase.expert == expert:
                return phase
        if self.boundary is None:
            raise RequestError(f"The ratio table {self.name} is of one expert, the schedule has two. Use a table of this model.")
        raise RequestError(
            f"The ratio table {self.name} is of two experts, the schedule has one. Set boundary to {self.boundary:g}, or "
            "use a table of this model."
        )

    def json(self) -> str:
        rows = [{name: value for name, value in asdict(phase).items() if value and name != "sigmas"} for phase in self.phases]
        about = {"name": self.name, "steps": self.steps, "shift": self.shift, "sigmas": self.sigmas, "boundary": self.boundary}
        presets = {name: asdict(settings) for name, settings in self.presets.items()}
        weights = {"weights": [network.json() for network in self.weights]}
        content = {**about, "source": dict(self.source), "presets": presets, "phases": rows, **weights}
        return json.dumps(content, indent=1, allow_nan=False)


def published_tables() -> Mapping[str, RatioTable]:
    """The tables that MagCache's authors published, by name: that of the Wan variant, and for TI2V-5B with _t2v and _i2v."""
    data = json.loads(files(__package__).joinpath("mag_ratios.json").read_text("utf-8"))
    return {row["name"]: _table(row) for row in data["tables"]}


def read_table(file: Path) -> RatioTable:
    """A table that `RatioTable.json` wrote.

    Raises:
        LoadError: the file is missing or no such table.
    """
    if not file.is_file():
        raise LoadError(f"There is no ratio table at {file}. Calibrate the model to make it.")
    return made_of(f"{file} is no ratio table, calibrate the model to make it anew", lambda: _table(read_json_file(file)))


def _table(row: Mapping[str, Any]) -> RatioTable:
    """Published tables tell steps and shift; the noise levels follow."""
    steps = sum(len(next(iter(part["ratios"].values()))) for part in row["phases"])
    schedule = plan(row.get("sigmas") or shifted_sigmas(steps, row["shift"]), 1.0, None, row["boundary"])
    sigmas, phases = schedule.sigmas, schedule.phases
    if row["shift"] is not None:
        check_shift(row["shift"])
    if [part["expert"] for part in row["phases"]] != [phase.expert for phase in phases]:
        raise LoadError(f"its experts are not {' and '.join(phase.expert for phase in phases)}, as its boundary has them.")
    parts = [
        PhaseRatios(
            expert=part["expert"],
            sigmas=sigmas[phase.start : phase.stop],
            ratios=_per_step(part["ratios"]),
            deviation=_per_step(part.get("deviation", {})),
            cosine_distance=_per_step(part.get("cosine_distance", {})),
        )
        for phase, part in zip(phases, row["phases"], strict=True)
    ]
    presets = {name: MagCacheSettings(**settings) for name, settings in row["presets"].items()}
    return RatioTable(
        name=str(row["name"]),
        sigmas=sigmas,
        shift=row["shift"],
        boundary=row["boundary"],
        phases=tuple(parts),
        source={str(name): str(value) for name, value in row["source"].items()},
        presets=presets,
        weights=tuple(map(read_fingerprint, row.get("weights", ()))),
    )


def _per_step(rows: Mapping[Branch, Sequence[float]]) -> PerStep:
    for branch in rows:
        one_of("a branch", branch, BOTH)
    return {branch: tuple(number("a value", x, "it is a finite number.") for x in values) for branch, values in rows.items()}
