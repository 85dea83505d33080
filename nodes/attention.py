"""FastVideo Attention: which kernel computes self- and cross-attention of one MODEL."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from fastvideo_core.attention import BACKENDS, impossible

from .checked import checked
from .inputs import EXPERT_OUTPUT, enabled_input, expert_input
from .native.attention import offered, this_machine, with_attention
from .native.facts import wan_facts
from .sockets import ACCELERATION, FASTER


class FastVideoAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        backends = offered()
        return io.Schema(
            node_id="FastVideoAttention",
            display_name="FastVideo Attention",
            category=ACCELERATION,
            description="Chooses what computes attention on this model and tries it before the run; the run report says what ran "
            "how often.",
            search_aliases=[
                "sage attention", "flash attention", "xformers", "sdpa", "attention backend", "flex attention", "sage",
                "sageattention", "attention", *FASTER,
            ],
            inputs=[
                expert_input(),
                io.Combo.Input(
                    "self_attention", options=["auto", *backends], default="auto",
                    tooltip="Among the video's own tokens: most of the time of a long video. auto: the first exact kernel that "
                    "runs here. Any other: that one, or an error that says why not. " + _missing(backends),
                ),
                io.Combo.Input(
                    "cross_attention", options=["auto", *backends], default="auto",
                    tooltip="From the video to the prompt, and to image tokens where the model reads any.",
                ),
                io.Boolean.Input(
                    "fold_text", default=True, optional=True,
                    tooltip="The zero rows that fill a prompt up to 512 count as two rows that weigh as much: less work, and the "
                    "same video but for rounding. Off: all rows are read.",
                ),
                enabled_input(optional=True),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, self_attention: str = "auto", cross_attention: str = "auto") -> bool | str:
        """ComfyUI asks before anything of the prompt runs: a dense video would be made before this node says no."""
        for name, asked in (("self_attention", self_attention), ("cross_attention", cross_attention)):
            if asked not in ("auto", *BACKENDS):
                return f"{name}: {asked!r} is none of auto, {', '.join(BACKENDS)}"
            reasons = () if asked == "auto" else impossible(asked, this_machine())
            if reasons:
                return f"{name}: {asked} cannot run on this machine: it {'; it '.join(reasons)}. Choose another one, or auto"
        return True

    @classmethod
    @checked
    def execute(
        cls, model: Any, self_attention: str, cross_attention: str, fold_text: bool = True, enabled: bool = True
    ) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(model)
        wan_facts(model)  # refuses what is not Wan
        return io.NodeOutput(with_attention(model, self_attention, cross_attention, fold_text))


def _missing(backends: Mapping[str, tuple[str, ...]]) -> str:
    reasons = [f"{name} {'; '.join(why)}" for name, why in backends.items() if why]
    return f"Not on this machine: {'. '.join(reasons)}." if reasons else "All run on this machine."


NODES = [FastVideoAttention]
