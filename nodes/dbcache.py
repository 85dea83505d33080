"""FastVideo DBCache: MODEL in, MODEL out."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from fastvideo_core import DBCacheSettings
from fastvideo_core.step_cache import DBCACHE_PRESETS

from .checked import checked
from .inputs import EXPERT_OUTPUT, enabled_input, expert_input, on_cpu_input
from .native.cache import with_cache
from .native.dbcache import NativeDBCache
from .native.facts import wan_facts
from .sockets import ACCELERATION, FASTER


class FastVideoDBCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoDBCache",
            display_name="FastVideo DBCache",
            category=ACCELERATION,
            description="In each step the first blocks of the transformer tell whether the others have to run; where not, what "
            "they add is continued from earlier steps (DBCache with TaylorSeer). Needs no calibration.",
            search_aliases=["dbcache", "cache-dit", "taylorseer", "first block cache", "fbcache", "step cache", "cache", *FASTER],
            inputs=[
                expert_input(),
                enabled_input(),
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        *(io.DynamicCombo.Option(name, []) for name in DBCACHE_PRESETS),
                        io.DynamicCombo.Option("custom", _custom_inputs()),
                    ],
                    tooltip="auto: a threshold that goes by the number of steps. quality: 0.08, performance: 0.15, as "
                    "cache-dit's authors use them, whatever the steps. custom: your own values.",
                ),
                on_cpu_input(
                    "two tensors of tokens per branch, and one for each Taylor order), costs transfers in every step"
                ),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model: Any, enabled: bool, preset: dict[str, Any], residuals_on_cpu: bool) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(model)
        settings = replace(_settings(preset), residuals_on_cpu=residuals_on_cpu)
        settings.outer_blocks(wan_facts(model).layers)  # refuses what is not Wan, and more blocks than there are
        return io.NodeOutput(with_cache(model, NativeDBCache(settings)))


def _custom_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "threshold", default=0.08, min=0.0, max=0.99, step=0.01, round=0.001,
            tooltip="How far what the first blocks add may have moved, relative to itself, since the last computed step. "
            "0 is off.",
        ),
        io.Int.Input(
            "first_blocks", default=0, min=0, max=40,
            tooltip="How many blocks always run and decide. 0 is auto: 8, fewer in networks of less than 30 blocks.",
        ),
        io.Int.Input("last_blocks", default=0, min=0, max=39, tooltip="How many blocks at the end always run."),
        io.Int.Input(
            "warmup_steps", default=-1, min=-1, max=1000,
            tooltip="How many of this model's first steps always compute. -1 is auto: a fifth of them.",
        ),
        io.Int.Input("max_skips", default=0, min=0, max=1000, tooltip="How many steps in a row may be skipped. 0: any number."),
        io.Int.Input(
            "max_skipped_steps", default=0, min=0, max=1000,
            tooltip="How many of this model's steps may be skipped in all. 0: any number.",
        ),
        io.Int.Input(
            "taylor_order", default=1, min=0, max=4,
            tooltip="0 reuses what the skipped blocks added as it was; 1 continues it along its change, 2 and more along the "
            "change of that.",
        ),
    ]  # fmt: skip


def _settings(preset: dict[str, Any]) -> DBCacheSettings:
    name = preset["preset"]
    if name in DBCACHE_PRESETS:
        return DBCACHE_PRESETS[name]
    return DBCacheSettings(
        threshold=preset["threshold"],
        first_blocks=preset["first_blocks"] or None,
        last_blocks=preset["last_blocks"],
        warmup_steps=None if preset["warmup_steps"] == -1 else preset["warmup_steps"],
        max_skips=preset["max_skips"] or None,
        max_skipped_steps=preset["max_skipped_steps"] or None,
        taylor_order=preset["taylor_order"],
    )


NODES = [FastVideoDBCache]
