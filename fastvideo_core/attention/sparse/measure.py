"""How far sparse attention's output is from dense attention's, on the tokens of a real run, which stays dense.

with measured(transformer, size, settings, device, kernel) as errors:
    ...  # generate
errors.rows()
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...wan.at_work import check_idle
from .kernel import Kernel
from .processor import attention_inputs, placed
from .tiles import Size
from .variant import SparseAttention, SparseSettings

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True)
class OutputError:
    """One layer under one setting, over all calls. error: ||sparse - dense|| / ||dense|| of the attention's output, before its
    projection. density: share of the pairs of tokens that were computed."""

    layer: int
    settings: SparseSettings
    error: float
    density: float


@dataclass
class OutputErrors:
    """Sums over calls: (layers, settings, 4) float32 of squared differences, squared outputs, densities, calls."""

    settings: Sequence[SparseSettings]
    attentions: Sequence[SparseAttention]
    sums: Tensor = field(repr=False)

    def add(self, layer: int, attn: Any, hidden: Tensor, rope: tuple[Tensor, Tensor] | None) -> None:
        inputs = attention_inputs(attn, hidden, rope)
        q, k, v = (x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))
        dense = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        for i, attention in enumerate(self.attentions):
            attended = attention(inputs)
            difference, size = ((x.float() ** 2).sum() for x in (attended.out - dense, dense))
            self.sums[layer, i] += torch.stack([difference, size, attended.density, torch.ones_like(size)])

    def rows(self) -> list[OutputError]:
        """Layer by layer; of the layers that ran."""
        return [
            OutputError(layer, self.settings[i], (difference / size) ** 0.5, density / calls)
            for layer, of_layer in enumerate(self.sums.tolist())
            for i, (difference, size, density, calls) in enumerate(of_layer)
            if calls
        ]


class _Measuring:
    """A processor that measures, and gives what the one before it gives."""

    def __init__(self, dense: Any, layer: int, errors: OutputErrors) -> None:
        self.dense, self.layer, self.errors = dense, layer, errors

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        self.errors.add(self.layer, attn, hidden_states, rotary_emb)
        given: Tensor = self.dense(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        return given


@contextmanager
def measured(
    transformer: "WanTransformer3DModel",
    size: Size,
    settings: Sequence[SparseSettings],
    device: torch.device,
    kernel: Kernel,
) -> Iterator[OutputErrors]:
    """Every call of the network's self-attention is measured; nothing that it computes changes.

    Args:
        size: of the video, in tokens.

    Raises:
        RequestError: as `sparse_attention`, or the network is at work.
    """
    check_idle(transformer, "Sparse attention was to be measured")
    attentions = [each.prepare(size, device, kernel) for each in settings]
    with torch.inference_mode(False):  # a tensor that may be written in any mode
        sums = torch.zeros(len(transformer.blocks), len(settings), 4, device=device)
    errors = OutputErrors(settings, attentions, sums)
    with placed(transformer, lambda dense, layer: _Measuring(dense, layer, errors)):
        yield errors
