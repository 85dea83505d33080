"""FastVideo Load Diffusers Model: diffusers' Wan network as a MODEL, from a folder or a single file."""

import logging

import folder_paths
import torch
from comfy_api.latest import io, ui

from .checked import checked
from .inputs import EXPERT_OUTPUT
from .native.diffusers_lora import add_lora
from .native.diffusers_model import as_model
from .native.files import model_file, transformer_folders
from .sockets import LOADING

DTYPES = {"as stored": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class FastVideoLoadDiffusersModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list("diffusion_models")
        return io.Schema(
            node_id="FastVideoLoadDiffusersModel",
            display_name="FastVideo Load Diffusers Model",
            category=LOADING,
            description="Loads a Wan transformer, diffusers folder or single file, and runs it with the pack's own engine.",
            search_aliases=["diffusers loader", "load wan", "huggingface folder", "wan", "load model", "loader", "single file"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=[*transformer_folders(), *files],
                    tooltip="A transformer folder below models/diffusers, or a safetensors file in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "dtype", options=list(DTYPES), default="as stored",
                    tooltip="What the network computes in. fp8 files compute in bfloat16 when left as stored.",
                ),
                io.Combo.Input(
                    "lora_name", options=["none", *folder_paths.get_filename_list("loras")], default="none",
                    tooltip="A LoRA for this network. Core's LoRA loaders behind this node do as well, for several.",
                ),
                io.Float.Input(
                    "lora_strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="How strongly the LoRA acts.",
                ),
            ],
            outputs=[io.Model.Output(tooltip=EXPERT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model_name: str, dtype: str, lora_name: str, lora_strength: float) -> io.NodeOutput:
        from fastvideo_core.wan.loading import load_transformer  # imports diffusers, which takes seconds

        folders = transformer_folders()
        path = folders.get(model_name) or model_file("diffusion_models", model_name)
        model = as_model(load_transformer(path, DTYPES[dtype]))
        text = f"{model_name}: {str(model.model_dtype()).removeprefix('torch.')}, no LoRA"
        if lora_name != "none":
            text = add_lora(model, model_file("loras", lora_name), lora_strength).line()
            logging.info("%s", text)
        return io.NodeOutput(model, ui=ui.PreviewText(text))


NODES = [FastVideoLoadDiffusersModel]
