"""FastVideo MagCache: MODEL in, MODEL out."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import MagCacheSettings
from fastvideo_core.step_cache import MagCacheMode

from .checked import checked
from .inputs import EXPERT_OUTPUT, enabled_input, expert_input, on_cpu_input
from .native.cache import with_cache
from .native.facts import wan_facts
from .native.magcache import NativeMagCache
from .sockets import ACCELERATION, FASTER


class FastVideoMagCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoMagCache",
            display_name="FastVideo MagCache",
            category=ACCELERATION,
            description="Skips the transformer's blocks in steps whose result is known well enough, by a plan "
            "that is known before the run.",
            search_aliases=["magcache", "teacache", "easycache", "step cache", "skip steps", "mag cache", "cache", *FASTER],
            inputs=[
                expert_input(),
                enabled_input(),
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
                on_cpu_input(
                    "one tensor of tokens per branch), costs a transfer per step"
                ),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
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
