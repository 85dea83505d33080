"""Diffusers' Wan network as a MODEL: what core's samplers, guiders and memory manager see is a Wan model like any other."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import comfy.ldm.common_dit
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor, nn

from fastvideo_core import TEXT_TOKENS, ConditioningError, LoadError, RequestError
from fastvideo_core.wan import installed

from .sockets import CATEGORY

DTYPES = {"as stored": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
READ_BEFORE = ("denoise_mask",)  # core's model turns it into timesteps per frame before it calls the network


class DiffusersNetwork(nn.Module):
    """A `WanTransformer3DModel` that answers to the calls of core's WanModel."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        config = transformer.config
        self.dim = config.num_attention_heads * config.attention_head_dim
        self.patch_size = config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def patch_embedding(self) -> Any:
        return self.transformer.patch_embedding

    @property
    def blocks(self) -> Any:
        return self.transformer.blocks

    @property
    def img_emb(self) -> Any:
        """What core's network holds here says how many images it reads: `emb_pos` where there are two."""
        embedder = self.transformer.condition_embedder.image_embedder
        return None if embedder is None else _ImageEmbedder(embedder)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None,
                time_dim_concat: Tensor | None = None, transformer_options: dict[str, Any] = {}, **kwargs: Any) -> Tensor:  # noqa: B006  # fmt: skip
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None, time_dim_concat: Tensor | None,
                 transformer_options: dict[str, Any], **kwargs: Any) -> Tensor:  # fmt: skip
        """x: (B, C, T, H, W); timestep: (B,) or per frame (B, T); context: (B, 512, D); clip_fea: (B, 257 or 514, 1280)."""
        _refuse_unread({"time_dim_concat": time_dim_concat, **kwargs}, transformer_options)
        frames, height, width = x.shape[2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        call = {
            "hidden_states": x,
            "timestep": _per_token(timestep, x),
            "encoder_hidden_states": context,
            "encoder_hidden_states_image": self._image_tokens(clip_fea, context),
            "return_dict": False,
        }
        replaces = transformer_options.get("patches_replace", {}).get("dit", {})
        stack = _HostBlocks(self.blocks, replaces, transformer_options)
        with installed(self.transformer, stack) if replaces else nullcontext():
            velocity = self.transformer(**call)[0]
        return velocity[:, :, :frames, :height, :width]

    def _image_tokens(self, tokens: Tensor | None, context: Tensor) -> Tensor | None:
        """Core gives two images' tokens in one row, (B, 514, D); diffusers reads them as neighbours, (2 * B, 257, D)."""
        reads = tokens_read(self.transformer.config)
        given = 0 if tokens is None else tokens.shape[1]
        if given != reads:
            raise ConditioningError(
                f"This model reads {reads} CLIP image tokens and got {given}: 257 for each image that CLIPVisionEncode encoded "
                "and that is connected to WanImageToVideo or WanFirstLastFrameToVideo. Only Wan 2.1 image-to-video reads any."
            )
        if tokens is not None and context.shape[1] != TEXT_TOKENS:
            raise ConditioningError(
                f"The prompt has {context.shape[1]} rows, and an image-to-video model of diffusers reads {TEXT_TOKENS}: encode "
                "it with FastVideo Text Encode."
            )
        return tokens if tokens is None else tokens.reshape(-1, 257, tokens.shape[2])


def tokens_read(config: Any) -> int:
    """CLIP image tokens of a diffusers Wan network: 257 per image, two images where there are positions for them."""
    return 0 if config.image_dim is None else config.pos_embed_seq_len or 257


class _ImageEmbedder:
    def __init__(self, embedder: Any) -> None:
        self.emb_pos = embedder.pos_embed


class _HostBlocks:
    """The block loop with the replacements that other packs put on ("double_block", i)."""

    def __init__(self, blocks: Any, replaces: dict[Any, Any], options: dict[str, Any]) -> None:
        self.blocks, self.replaces, self.options = blocks, replaces, options

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        self.options["total_blocks"], self.options["block_type"] = len(self.blocks), "double"
        for i, block in enumerate(self.blocks):
            self.options["block_index"] = i
            replace = self.replaces.get(("double_block", i))
            x = (
                block(x, context, time_mod, rope)
                if replace is None
                else self._replaced(replace, block, x, context, time_mod, rope)
            )
        return x

    def _replaced(self, replace: Any, block: Any, x: Tensor, context: Tensor, time_mod: Tensor, rope: Any) -> Tensor:
        def original(args: dict[str, Any]) -> dict[str, Tensor]:
            return {"img": block(args["img"], args["txt"], args["vec"], args["pe"])}

        args = {"img": x, "txt": context, "vec": time_mod, "pe": rope, "transformer_options": self.options}
        return replace(args, {"original_block": original})["img"]


def _per_token(timestep: Tensor, x: Tensor) -> Tensor:
    """Core gives one timestep per frame where a frame is given; diffusers reads one per token, (B, T * H/2 * W/2)."""
    if timestep.ndim == 1:
        return timestep
    tokens = (x.shape[-2] // 2) * (x.shape[-1] // 2)
    return timestep.expand(-1, x.shape[2]).repeat_interleave(tokens, dim=1)


def _refuse_unread(inputs: dict[str, Any], options: dict[str, Any]) -> None:
    """What would be ignored is an error."""
    unread = [name for name, value in inputs.items() if value is not None and name not in READ_BEFORE]
    unread += [name for name, patches in options.get("patches", {}).items() if patches]
    unread += ["optimized_attention_override"] if "optimized_attention_override" in options else []
    if unread:
        raise RequestError(
            f"A model from FastVideo Load Diffusers Model does not read {', '.join(unread)}, which a node before the sampler "
            "set. Load the file with core's Load Diffusion Model instead, or remove that node."
        )


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
    return comfy.model_patcher.ModelPatcher(
        base, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    )


def give_to_memory_manager(network: nn.Module) -> None:
    """Makes the big layers core's own kind, which the memory manager can keep on the CPU and stream in when memory is short."""
    swaps = {nn.Linear: comfy.ops.disable_weight_init.Linear, nn.Conv3d: comfy.ops.disable_weight_init.Conv3d}
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
        return str(json.loads(config.read_text(encoding="utf-8")).get("_class_name"))
    except (OSError, ValueError, AttributeError):
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
                    tooltip="A LoRA for this network. Core's LoRA loaders know core's key names only, so it is chosen here.",
                ),
                io.Float.Input(
                    "lora_strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="How strongly the LoRA acts.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For FastVideo Sampler, FastVideo Guider and core's samplers.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model_name: str, dtype: str, lora_name: str, lora_strength: float) -> io.NodeOutput:
        from fastvideo_core.wan.loading import apply_lora, load_transformer  # imports diffusers, which takes seconds

        folders = transformer_folders()
        path = folders.get(model_name) or model_file("diffusion_models", model_name)
        transformer = load_transformer(path, DTYPES[dtype])
        if lora_name != "none":
            apply_lora(transformer, model_file("loras", lora_name), lora_strength)
        return io.NodeOutput(as_model(transformer))


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
