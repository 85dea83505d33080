"""Diffusers' Wan network as a MODEL: what core's samplers, guiders and memory manager see is a Wan model like any other."""

import logging
import os
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import io, ui
from torch import Tensor, nn

from fastvideo_core import LoadError, read_json_file

from .checked import checked
from .diffusers_asked import refuse_object_patches
from .diffusers_lora import add_lora
from .diffusers_network import DiffusersNetwork
from .sockets import CATEGORY

KEY = "fastvideo_diffusers"
DTYPES = {"as stored": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class DiffusersWan21(comfy.model_base.WAN21):
    """Core's model with its conditioning, timesteps and memory estimate, and diffusers' network inside."""

    def __init__(self, model_config: Any, network: DiffusersNetwork, image_to_video: bool) -> None:
        comfy.model_base.BaseModel.__init__(self, model_config, comfy.model_base.ModelType.FLOW)
        self.image_to_video = image_to_video
        self.diffusion_model = network.requires_grad_(False).eval()


class DiffusersWan22(DiffusersWan21, comfy.model_base.WAN22):
    pass


def as_model(transformer: Any) -> comfy.model_patcher.ModelPatcher:
    """A MODEL around a `WanTransformer3DModel`. A plain ModelPatcher: a dynamic one force-loads weights that are not core's."""
    network = DiffusersNetwork(transformer)
    give_to_memory_manager(network)
    channels = transformer.config.out_channels
    config_class = comfy.supported_models.WAN22_T2V if channels == 48 else comfy.supported_models.WAN21_T2V
    config = config_class({"image_model": "wan2.1", "dim": network.dim, "disable_unet_model_creation": True})
    config.set_inference_dtype(network.dtype, None)
    base_class = DiffusersWan22 if channels == 48 else DiffusersWan21
    base = base_class(config, network, image_to_video=transformer.config.in_channels == channels + 20)
    model = comfy.model_patcher.ModelPatcher(
        base, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    )
    model.add_callback_with_key(CallbacksMP.ON_LOAD, KEY, _move_tables)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, refuse_object_patches)
    return model


def _move_tables(model: Any, device: torch.device, *_: Any) -> None:
    model.model.diffusion_model.tables.move(device)


class RMSNorm(comfy.ops.disable_weight_init.RMSNorm):
    bias = None  # which core's sets while it is made


class Float32LayerNorm(comfy.ops.disable_weight_init.LayerNorm):
    """Diffusers' `FP32LayerNorm` as core's kind of layer."""

    def forward(self, x: Tensor) -> Tensor:
        if self.comfy_cast_weights or self.weight_function or self.bias_function or self.weight.dtype != torch.float32:
            return self.forward_comfy_cast_weights(x.float()).to(x.dtype)
        out: Tensor = nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)
        return out


def give_to_memory_manager(network: nn.Module) -> None:
    """Makes the layers core's own kind, which the memory manager can keep on the CPU and stream in when memory is short."""
    from diffusers.models.normalization import FP32LayerNorm

    core = comfy.ops.disable_weight_init
    swaps = {nn.Linear: core.Linear, nn.Conv3d: core.Conv3d, nn.RMSNorm: RMSNorm, FP32LayerNorm: Float32LayerNorm}
    for module in network.modules():
        if type(module) in swaps:
            module.__class__ = swaps[type(module)]


def transformer_folders() -> dict[str, Path]:
    """Diffusers Wan transformers under ComfyUI's diffusers folders, by their path below them."""
    found = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        for config in sorted(root.glob("**/config.json")):
            if _class_name(config) == "WanTransformer3DModel":
                found[config.parent.relative_to(root).as_posix()] = config.parent
    return found


def _class_name(config: Path) -> str:
    try:
        return str(read_json_file(config).get("_class_name"))
    except LoadError:
        return ""  # not a readable diffusers config, so not in the list


class FastVideoLoadDiffusersModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list("diffusion_models")
        return io.Schema(
            node_id="FastVideoLoadDiffusersModel",
            display_name="FastVideo Load Diffusers Model",
            category=CATEGORY,
            description="Loads a Wan transformer, diffusers folder or single file, and runs it with the pack's own engine.",
            search_aliases=["diffusers loader", "load wan", "huggingface folder"],
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
            outputs=[io.Model.Output(tooltip="For FastVideo Sampler, FastVideo Guider and core's samplers.")],
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


def model_file(folder: str, name: str) -> Path:
    """A file of that name inside ComfyUI's model folders, and nowhere else."""
    path = folder_paths.get_full_path(folder, name)
    roots = [os.path.abspath(root) for root in folder_paths.get_folder_paths(folder)]  # links inside them are the user's
    if path is None or not any(Path(os.path.abspath(path)).is_relative_to(root) for root in roots):
        raise LoadError(
            f"There is no {name!r} in ComfyUI's {folder} folders. Put the file there and press R to refresh the list."
        )
    return Path(path)


NODES = [FastVideoLoadDiffusersModel]
