"""FastVideo Load Model On Workers: a file of ComfyUI's model folders as a MODEL whose network is in workers."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from .checked import checked
from .native.files import model_file
from .native.remote_part import as_remote_model
from .native.workers import NativeWorkers
from .sockets import LOADING, WorkersSocket

OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
})  # fmt: skip
"""Core's own names, and what its loader is told."""


class FastVideoLoadModelOnWorkers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoLoadModelOnWorkers",
            display_name="FastVideo Load Model On Workers",
            category=LOADING,
            description="Loads a Wan model in several GPUs, which compute each step together. Core's KSampler and this pack's "
            "samplers use it as any other MODEL, LoRA nodes too.",
            search_aliases=[
                "multi gpu", "parallel", "load wan", "diffusion model", "distributed", "wan", "multigpu", "load model",
            ],
            inputs=[
                WorkersSocket.Input("workers", tooltip="From FastVideo Workers. Several models may share them."),
                io.Combo.Input(
                    "model_name", options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A safetensors file in models/diffusion_models, which each worker opens by itself.",
                ),
                io.Combo.Input(
                    "weight_dtype", options=list(OPTIONS), default="default",
                    tooltip="What the weights are held in, as in core's Load Diffusion Model.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model. What patches its blocks or its attention is refused by name.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, workers: NativeWorkers, model_name: str, weight_dtype: str) -> io.NodeOutput:
        model = as_remote_model(workers, model_file("diffusion_models", model_name), OPTIONS[weight_dtype])
        text = f"{model_name}: {str(model.model_dtype()).removeprefix('torch.')}, {model.remote.title}"
        logging.info("%s", text)
        return io.NodeOutput(model, ui=ui.PreviewText(text))


NODES = [FastVideoLoadModelOnWorkers]
