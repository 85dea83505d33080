"""Networks of their true size on a GPU that is not there (tools/simulated), set up as `WanExperts` sets them up."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fastvideo_core import Conditioning, GivenFrame
from fastvideo_core.attention import FoldedText, lean_attention
from fastvideo_core.attention.folding import KeptKeys
from fastvideo_core.guidance import BOTH
from fastvideo_core.schedule import Phase
from fastvideo_core.wan import WanDenoiser
from fastvideo_core.wan.embeddings import kept_embeddings
from tools import simulated as there
from tools.simulated import Allocated, Flash
from tools.simulated.checkpoints import TrueSize

CUDA = torch.device("cuda")


def conditioning_of(size: TrueSize, dtype: torch.dtype) -> Conditioning:
    read, written = size.channels
    return Conditioning(
        positive=torch.zeros(1, 512, 4096, dtype=dtype),
        negative=torch.zeros(1, 512, 4096, dtype=dtype),
        image=torch.zeros(1, read - written, *size.shape[2:], dtype=dtype) if read > written else None,
        image_tokens=torch.zeros(1, size.image_tokens, 1280, dtype=dtype) if size.image_tokens else None,
        first_frame=GivenFrame(torch.zeros(1, written, 1, *size.shape[3:])) if size.first_frame else None,
    )


SD, HD = (1, 16, 21, 60, 104), (1, 16, 21, 90, 160)
SIZES: Mapping[str, TrueSize] = MappingProxyType({
    "T2V 1.3B": TrueSize(dim=1536, ffn_dim=8960, shape=SD),
    "T2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD),
    "T2V 14B 480p": TrueSize(dim=5120, ffn_dim=13824, shape=SD),
    "I2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16), image_tokens=257),
    "FLF2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16), image_tokens=514),
    "I2V A14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16)),
    "TI2V 5B": TrueSize(dim=3072, ffn_dim=14336, shape=(1, 48, 31, 44, 80), channels=(48, 48), first_frame=True),
    "TI2V 5B without image": TrueSize(dim=3072, ffn_dim=14336, shape=(1, 48, 31, 44, 80), channels=(48, 48)),
})  # fmt: skip


@dataclass(frozen=True)
class SimulatedExperts:
    """As `WanExperts` sets a network up, with a text of which 110 rows are real: no value can be read here to see it."""

    size: TrueSize
    dtype: torch.dtype = torch.bfloat16
    layers: int = 2
    rows: int = 112
    names: tuple[str, ...] = ("single",)
    weights: list[Tensor] = field(default_factory=list, init=False)  # of the network that was set up

    def loaded(self, expert: str) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def active(self, phase: Phase | None = None) -> Iterator[WanDenoiser]:
        network, conditioning = self.size.network(self.dtype, self.layers), conditioning_of(self.size, self.dtype)
        self.weights[:] = [*network.parameters(), *network.buffers()]
        text = FoldedText(self.rows, torch.zeros(1, 1, 1, self.rows, dtype=self.dtype), KeptKeys())
        given = self.size.shape[3] * self.size.shape[4] // 4 if self.size.first_frame else 0
        with Flash(), lean_attention(network, text), kept_embeddings(network, given) as embeddings:
            yield WanDenoiser(network, conditioning, self.size.shape, text, embeddings)


@contextmanager
def simulated() -> Iterator[None]:
    """All tensors are made on a GPU that is not there."""
    with there.simulated(), CUDA:
        yield


def peak_of(denoiser: Any, experts: SimulatedExperts, calls: int = 2) -> int:
    """Of calls over both branches."""
    latents = torch.zeros(experts.size.shape)
    with Allocated(experts.weights) as counter:
        for call in range(calls):
            denoiser.predict(latents, 1 - call / 10, BOTH)
    return counter.peak
