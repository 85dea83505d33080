"""MagCache on a native MODEL, and the ratio tables in ComfyUI's folders."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths

from fastvideo_core import MagCacheSettings, Phase, WanVariant
from fastvideo_core.step_cache import (
    CachePlan,
    MagCache,
    MagCacheMode,
    RatioTable,
    calibrated_tables,
    fingerprint,
    plan_magcache,
    ratio_table,
    recommended,
    steps_beyond,
)

from .cache_run import Opened
from .demo import FOLDER as DEMO_FOLDER
from .facts import WanFacts
from .generation import NativeGeneration, network_weights

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
        schedule, phase = generation.phase(table.boundary)
        plan = plan_magcache(schedule, table, settings, joint=True, gate=generation.gate)
        own = tuple(part for part in plan.phases if part.phase == phase)
        logging.info("%s, ratio table %s\n%s", self.name, table.name, CachePlan(plan.cache, own, plan.aside).text())
        beyond = 0 if plan.aside else steps_beyond(table, schedule, phase)
        return Opened(MagCache(schedule, table, settings), schedule, phase, _told(table, phase, beyond))


def _told(table: RatioTable, phase: Phase, beyond: int) -> tuple[str, ...]:
    if not beyond:
        return ()
    return (
        f"{beyond} of the {len(phase.steps)} steps of the {phase.expert} expert lie beyond the boundary {table.boundary:g} of "
        "MagCache's ratio table: its ratios go on straight there",
    )


def table_of(generation: NativeGeneration) -> RatioTable:
    """The ratio table of a generation's MODEL: one that was measured on its weights, else the published one."""
    weights, folders = [fingerprint(network_weights(generation.model))], table_folders()
    two = generation.planned is not None
    if generation.partial and not two:  # chained samplers run two experts, if there are two of this kind
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
