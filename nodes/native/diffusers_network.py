"""Diffusers' Wan network behind the calls of core's WanModel: conditions, timesteps, block replaces and wrappers as there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.ldm.common_dit
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from fastvideo_core import TEXT_TOKENS, ConditioningError
from fastvideo_core.attention import attending, is_as_made, lean_attention
from fastvideo_core.attention.sparse import sparse_attention
from fastvideo_core.wan import installed

from .core_names import give_core_names
from .diffusers_asked import placed, refuse_unread
from .override import SPARSE, Override, override_in


class DiffusersNetwork(nn.Module):
    """A `WanTransformer3DModel` that answers to the calls of core's WanModel, with the names of core's modules."""

    blocks: nn.ModuleList
    patch_embedding: Any
    transformer: Any

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        object.__setattr__(self, "transformer", transformer)  # no child: its leaves are children under core's names
        self.tables = give_core_names(self, transformer)
        config = transformer.config
        self.dim = config.num_attention_heads * config.attention_head_dim
        self.text_dim, self.patch_size = config.text_dim, config.patch_size

    @property
    def num_heads(self) -> int:
        return int(self.transformer.config.num_attention_heads)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None,
                time_dim_concat: Tensor | None = None, transformer_options: dict[str, Any] = {}, **kwargs: Any) -> Tensor:  # noqa: B006  # fmt: skip
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None, time_dim_concat: Tensor | None,
                 transformer_options: dict[str, Any], **kwargs: Any) -> Tensor:  # fmt: skip
        """x: (B, C, T, H, W); timestep: (B,) or per frame (B, T); context: (B, 512, D); clip_fea: (B, 257 or 514, 1280)."""
        refuse_unread({"time_dim_concat": time_dim_concat, **kwargs}, transformer_options)
        self.tables.give()
        if self.transformer.rope.freqs_cos.device != x.device:
            self.transformer.rope.to(x.device)
        frames, height, width = x.shape[2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        transformer_options["grid_sizes"] = tuple(size // part for size, part in zip(x.shape[2:], self.patch_size, strict=True))
        images = self._image_tokens(clip_fea, context)
        override = override_in(transformer_options)
        context, folding = self._folded(context, override)
        call = {
            "hidden_states": x,
            "timestep": _per_token(timestep, x),
            "encoder_hidden_states": context,
            "encoder_hidden_states_image": images,
            "return_dict": False,
        }
        replaces = transformer_options.get("patches_replace", {}).get("dit", {})
        stack = _HostBlocks(self.blocks, replaces, transformer_options)
        attention = nullcontext() if override is None else attending(self.transformer, override.account)
        session = transformer_options.get(SPARSE)
        sparse = nullcontext() if session is None else sparse_attention(self.transformer, session)
        rope = placed(self.transformer, transformer_options.get("rope_options"))
        with folding, attention, sparse, rope, installed(self.transformer, stack):
            velocity = self.transformer(**call)[0]
        return velocity[:, :, :frames, :height, :width]

    def _folded(self, context: Tensor, override: Override | None) -> tuple[Tensor, AbstractContextManager[None]]:
        """The rows of the text that are read, and what the network is put in to read them."""
        text = None if override is None else override.text
        fold = None if text is None else text.fold(context.shape[1], is_as_made(self.transformer))
        if text is None or fold is None:
            return context, nullcontext()
        return text.cut(context, fold), lean_attention(self.transformer, fold.to(context))

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
