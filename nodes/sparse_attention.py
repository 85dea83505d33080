"""FastVideo Sparse Attention: which part of the video each token attends, of one MODEL."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

import folder_paths
from comfy_api.latest import io

from fastvideo_core import RequestError
from fastvideo_core.attention.sparse import (
    BSASettings,
    KernelName,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    SparseSettings,
    STASettings,
    VSASettings,
)

from .checked import checked
from .inputs import EXPERT_OUTPUT, enabled_input, expert_input
from .native.facts import wan_facts
from .native.files import transformer_folders
from .native.sparse import with_sparse_attention
from .native.trained_weights import NONE, trained_file
from .sockets import ACCELERATION, FASTER


def _window(values: Mapping[str, Any]) -> tuple[int, int, int]:
    return values["window_time"], values["window_height"], values["window_width"]


def _nabla(values: Mapping[str, Any]) -> NABLASettings:
    window = _window(values)
    return NABLASettings(mass=values["mass"], window=window if any(window) else None)


VARIANTS: Mapping[str, Callable[[Mapping[str, Any]], SparseSettings]] = MappingProxyType(
    {
        "VSA": lambda values: VSASettings(sparsity=values["sparsity"]),
        "SLA": lambda values: SLASettings(sparsity=values["sparsity"], feature_map=values["feature_map"]),
        "BSA": lambda values: BSASettings(
            kept_queries=values["kept_queries"], mass=values["mass"], least_tiles=values["least_tiles"]
        ),
        "STA": lambda values: STASettings(window=_window(values)),
        "NABLA": _nabla,
    }
)


class FastVideoSparseAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = _variant_inputs()
        return io.Schema(
            node_id="FastVideoSparseAttention",
            display_name="FastVideo Sparse Attention",
            category=ACCELERATION,
            description="Lets each part of the video attend only the parts that matter to it, which saves time in long and large "
            "videos; the run report says how much was computed.",
            search_aliases=[
                "vsa", "sla", "bsa", "sta", "nabla", "sparse attention", "sliding tile attention", "sparse",
                "sliding window", "block sparse", *FASTER,
            ],
            inputs=[
                expert_input(),
                enabled_input(),
                io.DynamicCombo.Input(
                    "variant", options=[io.DynamicCombo.Option(name, inputs[name]) for name in VARIANTS],
                    tooltip="What chooses the parts. VSA: the best tiles of 4 x 4 x 4 tokens. SLA: the best blocks of tokens. "
                    "BSA: also fewer queries. STA: a fixed window of tiles. NABLA: tiles that hold most of the attention.",
                ),
                io.Int.Input(
                    "dense_steps", default=0, min=0, max=1000,
                    tooltip="How many steps at the start compute full attention: they settle what the video shows. A quarter of "
                    "the steps is a good start.",
                ),
                io.Int.Input(
                    "dense_layers", default=0, min=0, max=40,
                    tooltip="How many layers at the network's start compute full attention.",
                ),
                io.Combo.Input(
                    "kernel", options=list(get_args(KernelName)), default="flex",
                    tooltip="flex: compiled for each new size of video, which takes seconds; needs torch 2.9, Triton on a "
                    "GPU, a C++ compiler on the CPU. gather: plain torch, slower, runs anywhere.",
                ),
                io.Combo.Input(
                    "trained_weights", default=NONE, optional=True,
                    options=[NONE, *transformer_folders(), *folder_paths.get_filename_list("diffusion_models")],
                    tooltip="The model's own file where it was trained with VSA (FastWan) or SLA (TurboDiffusion): core's loader "
                    "drops its weights for that, and here they take part. none: the training-free form.",
                ),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, enabled: bool, variant: dict[str, Any], dense_steps: int, dense_layers: int, kernel: KernelName,
        trained_weights: str = NONE,
    ) -> io.NodeOutput:  # fmt: skip
        if not enabled:
            return io.NodeOutput(model)
        facts = wan_facts(model)  # refuses what is not Wan
        if dense_layers >= facts.layers:
            raise RequestError(f"dense_layers is {dense_layers} and the network has {facts.layers} layers: none would be sparse.")
        settings = _settings(variant)
        sparse = SparseSchedule(
            settings=settings, low_noise=settings, dense_steps=dense_steps, dense_layers=dense_layers, kernel=kernel
        )
        return io.NodeOutput(with_sparse_attention(model, sparse, trained_file(model, facts, trained_weights)))


def _settings(variant: Mapping[str, Any]) -> SparseSettings:
    return VARIANTS[variant["variant"]](variant)


def _variant_inputs() -> dict[str, list[io.Input]]:
    return {
        "VSA": [_sparsity(0.8, "FastWan's models were trained with 0.8 and 0.9.")],
        "SLA": [
            _sparsity(0.9, "TurboDiffusion uses 0.9."),
            io.Combo.Input(
                "feature_map", options=["softmax", "elu", "relu"], default="softmax",
                tooltip="Of the linear branch, which only checkpoints trained for SLA have.",
            ),
        ],
        "BSA": [
            _share("kept_queries", 0.5, "Share of each tile's queries that are computed; the others take a neighbour's."),
            _share("mass", 0.9, "Share of the attention between tiles that the chosen tiles hold."),
            io.Int.Input("least_tiles", default=4, min=1, max=1000, tooltip="Tiles attended in any case, the best ones."),
        ],
        "STA": _window_inputs((3, 3, 5), 1, "Window, in tiles of 6 x 8 x 8 tokens,"),
        "NABLA": [
            _share("mass", 0.9, "Share of the attention between tiles of 1 x 8 x 8 tokens that the chosen tiles hold."),
            *_window_inputs((0, 0, 0), 0, "Window of tiles that is attended in any case, all three 0 for none,"),
        ],
    }  # fmt: skip


def _sparsity(default: float, known: str) -> io.Input:
    return _share("sparsity", default, f"Share of the video that a part of it does not attend; 0 is full attention. {known}")


def _share(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, round=0.001, tooltip=tooltip)


def _window_inputs(default: tuple[int, int, int], least: int, tooltip: str) -> list[io.Input]:
    return [
        io.Int.Input(f"window_{axis}", default=value, min=least, max=99, tooltip=f"{tooltip} in {axis}.")
        for axis, value in zip(("time", "height", "width"), default, strict=True)
    ]


NODES = [FastVideoSparseAttention]
