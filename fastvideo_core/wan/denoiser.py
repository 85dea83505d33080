"""Diffusers' `WanTransformer3DModel` as a denoiser: conditioning in, one transformer call, one velocity per branch out."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import psutil
import torch
from torch import Tensor

from ..attention.folding import FoldedText, KeptKeys, foldable, folded
from ..conditioning import TEXT_TOKENS, Conditioning
from ..errors import CapacityError
from ..guidance import Branch, Prediction
from ..schedule import TIMESTEPS, Expert, Phase
from .fit import check_conditioning

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True)
class WanDenoiser:
    """One expert under one conditioning (already in the transformer's dtype and on its device). text: how the transformer
    reads it while `folded` is on it, if it is."""

    transformer: "WanTransformer3DModel"
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    text: FoldedText | None = None
    _contexts: dict[tuple[tuple[Branch, ...], int], dict[str, Tensor | None]] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """One call with batch = len(branches) * B. The latents stay float32; the network computes in its own dtype.

        Raises:
            CapacityError: the device has not enough memory for this many branches.
        """
        try:
            velocity = self._call(latents, sigma, branches)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise CapacityError(_out_of_memory(latents, len(branches))) from error
            raise
        return Prediction(velocity.float().chunk(len(branches)), [branches])

    def fits_batched(self, tokens_held: int = 0) -> tuple[bool, str]:
        """tokens_held: how many tensors of tokens (B, L, D) a step cache holds for each branch."""
        needed = activation_bytes(self.transformer, self.latent_shape, branches=2, tokens_held=tokens_held) + self._keys_bytes()
        free = free_bytes(self.conditioning.positive.device)
        words = f"both branches need about {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        return needed < free, words

    def _keys_bytes(self) -> int:
        """Of the keys and values that are kept for both branches."""
        if self.text is None or self.text.kept is None:
            return 0
        config, tokens = self.transformer.config, self.conditioning.image_tokens
        rows = self.latent_shape[0] * 2 * (self.text.rows + (0 if tokens is None else tokens.shape[1]))
        dim = config.num_attention_heads * config.attention_head_dim
        return 2 * int(config.num_layers) * rows * int(dim) * compute_dtype(self.transformer).itemsize

    def _call(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        copies, condition = len(branches), self.conditioning
        if self.text is not None and self.text.kept is not None:
            self.text.kept.call = (branches, latents.shape[0])
        x = latents.to(condition.positive.dtype)
        if condition.image is not None:
            x = torch.cat([x, condition.image.expand(x.shape[0], -1, -1, -1, -1)], dim=1)
        velocity: Tensor = self.transformer(
            hidden_states=torch.cat([x] * copies),
            timestep=torch.cat([self._timestep(latents, sigma)] * copies),
            **self._context(branches, latents.shape[0]),
            return_dict=False,
        )[0]
        return velocity

    def _timestep(self, latents: Tensor, sigma: float) -> Tensor:
        timestep = sigma * TIMESTEPS
        if self.conditioning.first_frame is not None:
            return self.conditioning.first_frame.timesteps(timestep, latents)
        return torch.full((latents.shape[0],), timestep, device=latents.device)

    def _context(self, branches: tuple[Branch, ...], batch: int) -> dict[str, Tensor | None]:
        """Text and image tokens of a call. They are the same in every step, so they are put together once per phase."""
        key = (branches, batch)
        if key not in self._contexts:
            rows = TEXT_TOKENS if self.text is None else self.text.rows
            texts = [self.conditioning.text(branch)[:, :rows].expand(batch, -1, -1) for branch in branches]
            tokens = self._image_tokens(len(branches), batch)
            self._contexts[key] = {"encoder_hidden_states": torch.cat(texts), "encoder_hidden_states_image": tokens}
        return self._contexts[key]

    def _image_tokens(self, copies: int, batch: int) -> Tensor | None:
        tokens = self.conditioning.image_tokens
        if tokens is None:
            return None
        rows = torch.cat([tokens.expand(batch, -1, -1)] * copies)
        if self.transformer.config.pos_embed_seq_len is None:
            return rows
        # With a position embedding (FLF2V) diffusers expects first and last image as neighbours in the batch and joins them
        # itself (transformer_wan.py, WanImageEmbedding).
        return rows.reshape(2 * rows.shape[0], -1, rows.shape[2])


class TransformerDenoiser(Protocol):
    """`WanDenoiser`, or what works around it."""

    @property
    def transformer(self) -> "WanTransformer3DModel": ...

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction: ...

    def fits_batched(self, tokens_held: int = 0) -> tuple[bool, str]: ...


class TransformerExperts(Protocol):
    """`WanExperts`, or what works around them."""

    @property
    def names(self) -> Collection[Expert]: ...

    def active(self, phase: Phase) -> AbstractContextManager[TransformerDenoiser]: ...


@dataclass(frozen=True)
class WanExperts:
    """One or two transformers under one conditioning. Only the expert at work is on `device`; the other one, and both
    afterwards, are on `offload_device`. A transformer with group offloading (diffusers' hooks) moves its own blocks.
    fold_text: see `text`. keep_keys: a folded text's keys and values in cross-attention, and the image tokens', are computed once
    per phase and kept on `device` in it: 2 * blocks * branches * rows * dim values."""

    transformers: Mapping[Expert, "WanTransformer3DModel"]
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    device: torch.device
    offload_device: torch.device
    fold_text: bool = True
    keep_keys: bool = True

    def __post_init__(self) -> None:
        for expert, transformer in self.transformers.items():
            check_conditioning(transformer, self.conditioning, self.latent_shape, expert)

    @property
    def names(self) -> Collection[Expert]:
        return self.transformers.keys()

    @contextmanager
    def active(self, phase: Phase) -> Iterator[WanDenoiser]:
        transformer = self.transformers[phase.expert]
        offloaded = is_group_offloaded(transformer)
        if not offloaded:
            transformer.to(self.device)
        try:
            conditioning = self.conditioning.to(self.device, compute_dtype(transformer))
            text = self.text(phase.expert)
            with nullcontext() if text is None else folded(transformer, text):
                yield WanDenoiser(transformer, conditioning, self.latent_shape, text)
        finally:
            if not offloaded:
                transformer.to(self.offload_device)

    def text(self, expert: Expert) -> FoldedText | None:
        """How the zero rows of both branches' text are folded into few, which changes nothing but rounding; None where they are
        not: without `fold_text`, on a transformer whose cross-attention was changed, and for a text of (nearly) 512 rows."""
        transformer = self.transformers[expert]
        if not self.fold_text or not foldable(transformer):
            return None
        texts = [text for text in (self.conditioning.positive, self.conditioning.negative) if text is not None]
        text = FoldedText.of(texts, compute_dtype(transformer), self.device)
        return replace(text, kept=KeptKeys()) if text is not None and self.keep_keys else text


def is_group_offloaded(transformer: "WanTransformer3DModel") -> bool:
    """Whether diffusers' group offloading owns the places of the weights."""
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return bool(_is_group_offload_enabled(transformer))


def compute_dtype(transformer: "WanTransformer3DModel") -> torch.dtype:
    """What the network computes in. Diffusers keeps norms and modulation in float32; the patch embedding never is one."""
    dtype: torch.dtype = transformer.patch_embedding.weight.dtype
    return dtype


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate. On the CPU it says so only in words (c10/core/impl/alloc_cpu.cpp)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _out_of_memory(latents: Tensor, branches: int) -> str:
    what = "Both branches of the guidance in one call do" if branches > 1 else "One transformer call does"
    remedy = "Use guidance mode sequential or auto" if branches > 1 else "Use group offloading or fp8_scaled weights"
    size = " x ".join(map(str, latents.shape[2:]))
    return (
        f"{what} not fit into the memory of {latents.device}: latents {size} (frames x height x width). "
        f"{remedy}, or make a smaller or shorter video."
    )


def activation_bytes(
    transformer: "WanTransformer3DModel", latent_shape: tuple[int, ...], branches: int, tokens_held: int = 0
) -> int:
    """Estimate of the peak memory of one call beside the weights, with what a step cache holds of its branches.

    A block holds at its widest the residual stream, its float32 norm, and either q, k, v and the attention output or the
    feed-forward's inner layer: 8 * dim + ffn_dim values per token in the network's dtype (counted in diffusers'
    WanTransformerBlock; the output and the latents are small beside it).
    """
    config = transformer.config
    batch, _, frames, height, width = latent_shape
    tokens = batch * branches * frames * (height // 2) * (width // 2)
    dim = config.num_attention_heads * config.attention_head_dim
    return int(tokens * ((8 + tokens_held) * dim + config.ffn_dim) * compute_dtype(transformer).itemsize)


def free_bytes(device: torch.device) -> int:
    """Memory that a new allocation on `device` can have, what torch holds in reserve included."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return int(psutil.virtual_memory().available)
