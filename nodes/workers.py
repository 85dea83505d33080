"""FastVideo Workers: processes with a GPU each, on this machine or in a Ray cluster. Settings alone."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import Workers
from fastvideo_core.parallel import Layout

from .checked import checked
from .native.workers import NativeWorkers
from .sockets import LOADING, WorkersSocket

PLACES = ("this machine", "a Ray cluster")
SHARED, WHOLE_VIDEOS = "cfg x ulysses", "whole videos"


class FastVideoWorkers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        address = io.String.Input(
            "address", default="auto",
            tooltip="host:port of the cluster's head, as for `ray start`. auto: the cluster that this machine has joined.",
        )  # fmt: skip
        cfg = io.Int.Input(
            "cfg", default=2, min=1, max=2,
            tooltip="2: each half of the workers computes one branch of guidance, and hardly anything is exchanged. Does nothing "
            "at guidance scale 1. 1: all share each call.",
        )  # fmt: skip
        ulysses = io.Int.Input(
            "ulysses", default=1, min=1, max=64,
            tooltip="How many workers share the tokens of a call. It must divide the heads of attention: 40 in 14B, 24 in 5B, 12 "
            "in 1.3B. They exchange much: one machine, best with NVLink.",
        )  # fmt: skip
        return io.Schema(
            node_id="FastVideoWorkers",
            display_name="FastVideo Workers",
            category=LOADING,
            description="Several GPUs for one video, or for many: which, and how they share the work. They start when a model is "
            "loaded on them, and end with ComfyUI.",
            search_aliases=[
                "multi gpu", "parallel", "ulysses", "sequence parallel", "cfg parallel", "ray", "cluster", "multigpu",
                "gpus",
            ],
            inputs=[
                io.Int.Input(
                    "count", default=2, min=1, max=1024, tooltip="How many workers. Each has a GPU, or part of the CPU's cores.",
                ),
                io.Combo.Input(
                    "device", options=["GPU", "CPU"], default="GPU",
                    tooltip="What each worker computes on. CPU is for trying workflows where there are no GPUs.",
                ),
                io.DynamicCombo.Input(
                    "layout",
                    options=[
                        io.DynamicCombo.Option("auto", []), io.DynamicCombo.Option(SHARED, [cfg, ulysses]),
                        io.DynamicCombo.Option(WHOLE_VIDEOS, []),
                    ],
                    tooltip="How they share a step. auto: a half for each branch of guidance, and within it the tokens. whole "
                    "videos: they share none, and each makes videos of its own, for FastVideo Batch.",
                ),
                io.DynamicCombo.Input(
                    "place",
                    options=[io.DynamicCombo.Option(PLACES[0], []), io.DynamicCombo.Option(PLACES[1], [address])],
                    tooltip="Where the workers are. Every machine needs ComfyUI, this pack and the model in the same place.",
                ),
            ],
            outputs=[WorkersSocket.Output("workers", tooltip="For FastVideo Load Model On Workers.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, count: int, device: str, layout: dict[str, Any] | None = None, place: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        assert layout is not None and place is not None  # `checked`
        asked = Layout(layout["cfg"], layout["ulysses"]) if layout["layout"] == SHARED else None
        counted = {"gpus" if device == "GPU" else "workers": count}
        here = place["place"] == PLACES[0]
        workers = Workers.local(**counted, layout=asked) if here else Workers.at(place["address"], **counted, layout=asked)
        single = Layout() if layout["layout"] == WHOLE_VIDEOS else workers.layout
        return io.NodeOutput(NativeWorkers(workers.machines, single))


NODES = [FastVideoWorkers]
