"""MagCache on a native MODEL, and the ratio tables in ComfyUI's folders."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths

from fastvideo_core import MagCacheSettings, Phase, Schedule, WanVariant, counted, why_no_cache
from fastvideo_core.step_cache import (
    Fingerprint,
    MagCache,
    MagCacheMode,
    RatioTable,
    calibrated_tables,
    ratio_table,
    recommended,
    steps_beyond,
    unless,
)

from .cache_run import Opened
from .demo import FOLDER as DEMO_FOLDER
from .facts import WanFacts
from .generation import NativeGeneration

RATIOS = "fastvideo_ratios"
"""The folder of ComfyUI's models directory where calibrated ratio tables lie."""


@dataclass(frozen=True)
class NativeMagCache:
    """What the node puts on a MODEL. custom: the settings; those that the table recommends when None."""

    custom: MagCacheSettings | None
    mode: MagCacheMode
    residuals_on_cpu: bool
    name: str = "FastVideo MagCache"

    def open(self, generation: NativeGeneration) -> Opened:
        """Raises LoadError without a table for this model, RequestError where the table does not fit the generation."""
        table = table_of(generation)
        settings = replace(self.custom or recommended(table), mode=self.mode, residuals_on_cpu=self.residuals_on_cpu)
        schedule, phases = generation.part(table.boundary)
        networks = {phases[0].expert: generation.weights}
        cache = unless(why_no_cache(generation.recipes, schedule), MagCache(schedule, table, settings, networks))
        plan = cache.plan(joint=True, gate=generation.gate)
        logging.info("%s, ratio table %s\n%s", self.name, table.name, plan.text())
        told = () if plan.aside else tuple(_beyond(table, schedule, phases, networks))
        return Opened(cache, schedule, phases, told)


def _beyond(table: RatioTable, schedule: Schedule, phases: Sequence[Phase], networks: Mapping[str, Fingerprint]) -> Iterator[str]:
    """Lines for the report."""
    for phase in phases:
        beyond = steps_beyond(table, schedule, phase, networks)
        if beyond:
            yield (
                f"{beyond} of the {counted(len(phase.steps), 'step')} of the {phase.expert} expert lie beyond the boundary "
                f"{table.boundary:g} of MagCache's ratio table: its ratios go on straight there"
            )


def table_of(generation: NativeGeneration) -> RatioTable:
    """The ratio table of a generation's MODEL: one that was measured on its weights, else the published one."""
    weights, folders = [generation.weights], table_folders()
    two = generation.two_networks
    if generation.partial and generation.planned is None:  # chained samplers run two experts, if there are two of this kind
        two = bool(generation.facts.variants(True)) or bool(calibrated_tables(weights, folders, True))
    return ratio_table(
        weights,
        folders,
        _variants(generation.facts, two),
        two_experts=two,
        pixels=generation.pixels,
        first_frame=generation.first_frame,
    )


def _variants(facts: WanFacts, two_experts: bool) -> list[WanVariant]:
    """What published tables may be of. VACE's networks are text-to-video's with control blocks, and have tables of their own."""
    rows = facts.variants(two_experts)
    if facts.name == "WAN21_Vace":
        return [replace(row, name=row.name.replace("_t2v_", "_vace_"), title=f"{row.title} with VACE") for row in rows]
    return rows if facts.plain else []


def table_folders() -> list[Path]:
    return [*map(Path, folder_paths.get_folder_paths(RATIOS)), DEMO_FOLDER]


def register_folder() -> None:
    """Tells ComfyUI of the folder of ratio tables."""
    folder_paths.add_model_folder_path(RATIOS, str(Path(folder_paths.models_dir) / RATIOS))
