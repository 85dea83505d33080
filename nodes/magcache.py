"""MagCache as a node: MODEL in, MODEL out."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

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

from .checked import checked
from .demo_wan import FOLDER as DEMO_FOLDER
from .native_generation import NativeGeneration, network_weights
from .sockets import CATEGORY
from .step_cache import Opened, with_cache
from .wan_model import WanFacts, wan_facts

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


class FastVideoMagCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoMagCache",
            display_name="FastVideo MagCache",
            category=CATEGORY,
            description="Skips the transformer's blocks in steps whose result is known well enough, by a plan "
            "that is known before the run.",
            search_aliases=["magcache", "teacache", "easycache", "step cache", "speed up", "skip steps"],
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; each expert of Wan 2.2 gets a node of its own."),
                io.Boolean.Input("enabled", default=True, tooltip="Off: the model goes through as it came."),
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        io.DynamicCombo.Option("auto", []),
                        io.DynamicCombo.Option("custom", _custom_inputs()),
                    ],
                    tooltip="auto: what was measured for this model, recognised by its weights. custom: your own values.",
                ),
                io.Combo.Input(
                    "mode", options=["resampled", "nearest", "official"], default="resampled",
                    tooltip="How the model's ratio table is read. resampled: by noise level, for any steps, shift and scheduler. "
                    "nearest: by step number, for the table's shift. official: the table's own steps and shift.",
                ),
                io.Boolean.Input(
                    "residuals_on_cpu", default=False,
                    tooltip="Keeps what is reused in the computer's memory: saves GPU memory (one tensor of tokens per branch), "
                    "costs a transfer per step.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For FastVideo Sampler, FastVideo Guider and core's samplers.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, enabled: bool, preset: dict[str, Any], mode: MagCacheMode, residuals_on_cpu: bool
    ) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(model)
        wan_facts(model)  # refuses what is not Wan
        return io.NodeOutput(with_cache(model, NativeMagCache(_custom(preset), mode, residuals_on_cpu)))


def _custom_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "threshold", default=0.12, min=0.0, max=1.0, step=0.01, round=0.001,
            tooltip="How large the estimated error of the steps skipped in a row may get. 0 is off; MagCache's authors use 0.06 "
            "to 0.24.",
        ),
        io.Int.Input("max_skips", default=2, min=1, max=20, tooltip="How many steps in a row may be skipped (the paper's K)."),
        io.Float.Input(
            "retention", default=0.2, min=0.0, max=1.0, step=0.01,
            tooltip="Fraction of this model's first steps that always compute: they decide what the video shows.",
        ),
        io.Float.Input(
            "trend", default=0.7, min=0.0, max=1.0, step=0.1,
            tooltip="How far a skipped step continues the last change of what it reuses. 0 reuses it as it is, as MagCache's "
            "authors do.",
        ),
    ]  # fmt: skip


def _custom(preset: dict[str, Any]) -> MagCacheSettings | None:
    if preset["preset"] == "auto":
        return None
    return MagCacheSettings(**{name: preset[name] for name in ("threshold", "max_skips", "retention", "trend")})


NODES = [FastVideoMagCache]
