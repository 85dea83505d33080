"""FastVideo Compile: the blocks of one MODEL by torch.compile."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import CompileSettings

from .checked import checked
from .inputs import EXPERT_OUTPUT, enabled_input, expert_input
from .native.compile import with_compile
from .native.facts import wan_facts
from .sockets import ACCELERATION, FASTER


class FastVideoCompile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoCompile",
            display_name="FastVideo Compile",
            category=ACCELERATION,
            description="Compiles the model's blocks in the first step of a run, so that the later ones take less time; the run "
            "report says what was compiled.",
            search_aliases=["torch compile", "torch.compile", "inductor", "triton", "compile model", "compile", *FASTER],
            inputs=[
                expert_input(),
                enabled_input(),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
        )

    @classmethod
    @checked
    def execute(cls, model: Any, enabled: bool) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(model)
        wan_facts(model)  # refuses what is not Wan
        return io.NodeOutput(with_compile(model, CompileSettings()))


NODES = [FastVideoCompile]
