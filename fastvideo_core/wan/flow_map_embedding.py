"""The embedding of a network that reads two timesteps. It imports diffusers, which takes seconds."""

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor


class FlowMapEmbedding(WanTimeTextImageEmbedding):  # type: ignore[misc]
    """In the place of Wan's: the time embedding is a mixture of two (diffusers, models/transformers/transformer_anyflow.py,
    AnyFlowDualTimestepTextImageEmbedding). Weights have the same names as there."""

    def __init__(self, dim: int, time_freq_dim: int, text_embed_dim: int, gate: float, relative: bool) -> None:
        """gate: the second one's share; relative: whether that reads how far the step leads, and not where."""
        super().__init__(dim, time_freq_dim, 6 * dim, text_embed_dim)
        self.delta_embedder = TimestepEmbedding(in_channels=time_freq_dim, time_embed_dim=dim)
        self.gate, self.relative = gate, relative

    def forward(
        self,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        timestep_seq_len: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """timestep: (2 * B,) as of `two_timesteps`, or (B,) of steps that lead nowhere. Returns time (B, D), modulation
        (B, 6 * D), text (B, rows, D) and None."""
        rows = encoder_hidden_states.shape[0]
        now, after = timestep[:rows], timestep[-rows:]
        second = now - after if self.relative else after
        first = self._embedded(self.time_embedder, now, encoder_hidden_states)
        time = (1 - self.gate) * first + self.gate * self._embedded(self.delta_embedder, second, encoder_hidden_states)
        return time, self.time_proj(self.act_fn(time)), self.text_embedder(encoder_hidden_states), encoder_hidden_states_image

    def _embedded(self, embedder: TimestepEmbedding, timestep: Tensor, like: Tensor) -> Tensor:
        dtype: torch.dtype = next(iter(embedder.parameters())).dtype
        embedded: Tensor = embedder(self.timesteps_proj(timestep).to(dtype))
        return embedded.type_as(like)
