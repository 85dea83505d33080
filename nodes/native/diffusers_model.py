"""Diffusers' Wan network as a MODEL: what core's samplers, guiders and memory manager see is a Wan model like any other."""

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

from .diffusers_asked import refuse_object_patches
from .diffusers_network import DiffusersNetwork

KEY = "fastvideo_diffusers"


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
