"""Phases of native MODELs: what the graph hands on, and the names that its MODELs have as experts of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastvideo_core import PhaseSettings

NETWORKS = {1: ("single",), 2: ("high_noise", "low_noise")}
"""What the networks of a run are called, in the order of their first phases."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelPhase:
    """One phase, as FastVideo Phase makes it; the others as in `PhaseSettings`."""

    model: Any
    until: float
    guidance_scale: float


class Phases(tuple[ModelPhase, ...]):
    """What goes over the socket, from noise to video."""


def expert_names(models: Sequence[Any]) -> list[str]:
    """One per MODEL; equal MODELs have equal names. The second patching of a network, such as one with a LoRA, is called like the
    network, with a 2."""
    networks = list(dict.fromkeys(id(model.model) for model in models))
    known = NETWORKS.get(len(networks)) or [f"expert_{number}" for number in range(1, len(networks) + 1)]
    names: dict[int, str] = {}
    for model in models:
        name = known[networks.index(id(model.model))]
        patchings = sum(other == name or other.startswith(f"{name}_patched") for other in names.values())
        names.setdefault(id(model), name if not patchings else f"{name}_patched{'' if patchings == 1 else f'_{patchings}'}")
    return [names[id(model)] for model in models]


def named(phases: Sequence[ModelPhase]) -> tuple[dict[str, Any], tuple[PhaseSettings, ...]]:
    """The MODELs by their names, and the engine's phases of them."""
    names = expert_names([phase.model for phase in phases])
    settings = tuple(
        PhaseSettings(expert=name, guidance_scale=phase.guidance_scale, until=phase.until)
        for name, phase in zip(names, phases, strict=True)
    )
    return {name: phase.model for name, phase in zip(names, phases, strict=True)}, settings


def boundary_of(phases: Sequence[PhaseSettings]) -> float | None:
    """The noise level at which the second network of two takes over."""
    changes = [before.until for before, after in pairwise(phases) if _network(before.expert) != _network(after.expert)]
    return changes[0] if len(changes) == 1 else None


def two_networks(phases: Sequence[PhaseSettings]) -> bool:
    """Whether phases are of more than one network, by the names of their experts."""
    return _network(phases[0].expert) != "single"


def _network(expert: str) -> str:
    return expert.partition("_patched")[0]
