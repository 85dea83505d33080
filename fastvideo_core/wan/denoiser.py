"""Diffusers' `WanTransformer3DModel` as a denoiser: conditioning in, one transformer call, one velocity per branch out."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..attention.folding import FoldedText, KeptKeys
from ..attention.lean import is_as_made, lean_attention
from ..conditioning import TEXT_TOKENS, Conditioning
from ..errors import CapacityError
from ..guidance import Branch, Prediction
from ..schedule import TIMESTEPS, Phase, Schedule
from .at_work import at_work, check_idle
from .embeddings import KeptEmbeddings, embeds_as_made, kept_embeddings
from .fit import check_conditioning
from .flow_map import check_told, reads_two_timesteps, two_timesteps
from .linear import LinearAccount
from .loading.lora_strengths import strengths
from .memory import WAYS_OUT, activation_bytes, call_too_large, compute_dtype, free_bytes
from .placement import MoveAccount, check_onload_device, is_group_offloaded, placed, room, visiting_bytes

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True)
class WanDenoiser:
    """One expert under one conditioning (already in the transformer's dtype and on its device). text: how the transformer
    reads it while `lean_attention` is on it, if it is folded; embeddings: those that are kept while `kept_embeddings` is on it;
    ranks: how many share the tokens in its blocks; gathered_bytes: of their weights, what is gathered in a call; schedule: where
    steps lead, for a transformer that reads it.
    """

    transformer: "WanTransformer3DModel"
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    text: FoldedText | None = None
    embeddings: KeptEmbeddings | None = None
    ranks: int = 1
    gathered_bytes: int = 0
    schedule: Schedule | None = None
    _contexts: dict[tuple[tuple[Branch, ...], int], dict[str, Tensor | None]] = field(default_factory=dict, init=False)
    _inputs: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """One call with batch = len(branches) * B. The latents stay float32; the network computes in its own dtype.

        Raises:
            CapacityError: the device has not enough memory for this many branches. What such calls kept is free again.
        """
        try:
            with room(lambda: call_too_large(latents, len(branches))):
                velocity = self._call(latents, sigma, branches)
        except CapacityError:
            self._free()
            raise
        return Prediction(velocity.float().chunk(len(branches)), [branches])

    def _free(self) -> None:
        self._inputs.clear()
        self._contexts.clear()
        if self.text is not None and self.text.kept is not None:
            self.text.kept.clear()

    def fits_batched(self, tokens_held: int = 0, attention_bytes: int = 0) -> tuple[bool, str]:
        """As `needed_bytes`."""
        needed = self.needed_bytes(tokens_held, attention_bytes)
        free = free_bytes(self.conditioning.positive.device)
        words = f"both branches need about {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        return needed < free, words

    def needed_bytes(self, tokens_held: int = 0, attention_bytes: int = 0) -> int:
        """Estimate of the peak memory of a call over both branches, beside the weights that are there before it.

        Args:
            tokens_held: how many tensors of tokens (B, L, D) a step cache holds for each branch.
            attention_bytes: what self-attention that is not dense holds of one video.
        """
        given = self.conditioning.first_frame is not None
        needed = activation_bytes(self.transformer, self.latent_shape, 2, tokens_held, given, attention_bytes, self.ranks)
        return needed + self._keys_bytes() + self.gathered_bytes + visiting_bytes(self.transformer)

    def _keys_bytes(self) -> int:
        """Of the keys and values that are kept for both branches."""
        if self.text is None or self.text.kept is None:
            return 0
        config, tokens = self.transformer.config, self.conditioning.image_tokens
        rows = self.latent_shape[0] * 2 * (self.text.rows + (0 if tokens is None else tokens.shape[1]))
        dim = config.num_attention_heads * config.attention_head_dim
        return 2 * int(config.num_layers) * rows * int(dim) * compute_dtype(self.transformer).itemsize

    def _call(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        self._announce(branches, latents.shape[0], sigma)
        velocity: Tensor = self.transformer(
            hidden_states=self._input(latents, len(branches)),
            timestep=self._timestep(latents, sigma, len(branches)),
            **self._context(branches, latents.shape[0]),
            return_dict=False,
        )[0]
        return velocity

    def _announce(self, branches: tuple[Branch, ...], batch: int, sigma: float) -> None:
        """Names what is about to be read, for those who keep what they made of it."""
        if self.text is not None and self.text.kept is not None:
            self.text.kept.call = (branches, batch)
        if self.embeddings is not None:
            self.embeddings.tokens_of = (branches, batch)
            self.embeddings.time_of = (sigma, len(branches) * batch)

    def _input(self, latents: Tensor, copies: int) -> Tensor:
        """The latents of all branches with the image condition beside them, in the same memory in every step."""
        key = (copies, latents.shape[0])
        if key not in self._inputs:
            self._inputs[key] = self._new_input(latents, copies)
        self._inputs[key].view(*key, -1, *latents.shape[2:])[:, :, : latents.shape[1]].copy_(latents)
        return self._inputs[key]

    def _new_input(self, latents: Tensor, copies: int) -> Tensor:
        image, (batch, channels, *size) = self.conditioning.image, latents.shape
        more = 0 if image is None else image.shape[1]
        with torch.inference_mode(False):  # a tensor that may be written in any mode
            new = self.conditioning.positive.new_empty(copies * batch, channels + more, *size)
        if image is not None:
            new.view(copies, batch, -1, *size)[:, :, channels:].copy_(image)
        return new

    def _timestep(self, latents: Tensor, sigma: float, copies: int) -> Tensor:
        if self.schedule is not None:
            return two_timesteps(self.schedule, sigma, copies * latents.shape[0], latents.device)
        timestep = sigma * TIMESTEPS
        if self.conditioning.first_frame is not None:
            return self.conditioning.first_frame.timesteps(timestep, latents).repeat(copies, 1)
        return torch.full((copies * latents.shape[0],), timestep, device=latents.device)

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
    def names(self) -> Collection[str]: ...

    def loaded(self, expert: str) -> AbstractContextManager[object]: ...

    def active(self, phase: Phase) -> AbstractContextManager[TransformerDenoiser]: ...


@dataclass(frozen=True)
class WanExperts:
    """Transformers under one conditioning. Only the expert that is loaded is on `device`; the others, and all of them afterwards,
    are on `offload_device`. A transformer with group offloading (diffusers' hooks) moves its own blocks. While one is loaded all
    of them belong to these experts alone.
    fold_text: see `text`. keep_keys: a folded text's keys and values in cross-attention, and the image tokens', are computed once
    per phase and kept on `device` in it: 2 * blocks * branches * rows * dim values.
    linears: what linear layers are computed by on the CPU. moves: what was loaded. schedule: of the generation, for transformers
    that read where a step leads."""

    transformers: Mapping[str, "WanTransformer3DModel"]
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    device: torch.device
    offload_device: torch.device
    fold_text: bool = True
    keep_keys: bool = True
    linears: LinearAccount = field(default_factory=LinearAccount)
    moves: MoveAccount = field(default_factory=MoveAccount)
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for expert, transformer in self.transformers.items():
            check_idle(transformer, "A second generation was asked for")
            check_onload_device(transformer, self.device)
            check_conditioning(transformer, self.conditioning, self.latent_shape, expert)
            check_told(transformer, self.schedule, expert)

    @property
    def names(self) -> Collection[str]:
        return self.transformers.keys()

    @contextmanager
    def loaded(self, expert: str) -> Iterator[None]:
        transformer = self.transformers[expert]
        with at_work(self.transformers.values()), ExitStack() as stack:
            self.moves.networks.add(id(transformer))
            if not is_group_offloaded(transformer):
                self.moves.moves += 1
                stack.enter_context(placed(transformer, self.device, self.offload_device, WAYS_OUT))
            yield

    @contextmanager
    def active(self, phase: Phase) -> Iterator[WanDenoiser]:
        from .fast_linears import fast_linears

        transformer = self.transformers[phase.expert]
        with ExitStack() as stack:
            if phase.loras:
                stack.enter_context(strengths(transformer, phase.loras))
            conditioning = self.conditioning.to(self.device, compute_dtype(transformer))
            text = self.text(phase.expert)
            if self.device.type == "cpu":  # and not where the weights are, which may wait there for their call on a GPU
                stack.enter_context(fast_linears(transformer, self.linears))
            if is_as_made(transformer):
                stack.enter_context(lean_attention(transformer, text))
            schedule = self.schedule if reads_two_timesteps(transformer) else None
            embeddings = self._kept_embeddings(transformer, stack)
            yield WanDenoiser(transformer, conditioning, self.latent_shape, text, embeddings, schedule=schedule)

    def text(self, expert: str) -> FoldedText | None:
        """How the zero rows of both branches' text are folded into few, which changes nothing but rounding; None where they are
        not: without `fold_text`, on a transformer whose cross-attention was changed, and for a text of (nearly) 512 rows."""
        transformer = self.transformers[expert]
        if not self.fold_text or not is_as_made(transformer):
            return None
        texts = [text for text in (self.conditioning.positive, self.conditioning.negative) if text is not None]
        text = FoldedText.of(texts, compute_dtype(transformer), self.device)
        return replace(text, kept=KeptKeys()) if text is not None and self.keep_keys else text

    def _kept_embeddings(self, transformer: "WanTransformer3DModel", stack: ExitStack) -> KeptEmbeddings | None:
        if not embeds_as_made(transformer):
            return None
        _, _, _, height, width = self.latent_shape
        given_tokens = 0 if self.conditioning.first_frame is None else (height // 2) * (width // 2)
        return stack.enter_context(kept_embeddings(transformer, given_tokens))
