"""Where a step cache meets a generation on diffusers' network: experts whose block loop goes through the cache.

Neither the loop nor the guidance nor the denoiser knows: before each call the session is told the step and the branches.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..guidance import Branch, Denoiser, Prediction
from ..schedule import Expert, Phase, Schedule
from ..wan.blocks import BlockStack, installed

if TYPE_CHECKING:
    from torch import nn

    from ..wan.denoiser import WanExperts


class CacheSession(Protocol):
    """A cache during one phase."""

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        """Announces the next call: its step, and the branches that its batch holds, in this order and of equal size."""
        ...

    def wrap(self, blocks: BlockStack) -> BlockStack:
        """The stack that runs in place of `blocks`."""
        ...


class StepCache(Protocol):
    """A cache during one generation."""

    def session(self, phase: Phase) -> AbstractContextManager[CacheSession | None]:
        """A fresh session, whose memory is free again afterwards, also on interrupt; None where the cache stands aside."""
        ...


@dataclass(frozen=True)
class CachedDenoiser:
    """A denoiser that announces each call to the session."""

    denoiser: Denoiser
    schedule: Schedule
    session: CacheSession

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        self.session.begin(self.schedule.step_at(sigma), branches)
        return self.denoiser.predict(latents, sigma, branches)

    def fits_batched(self) -> tuple[bool, str]:
        return self.denoiser.fits_batched()


@dataclass(frozen=True)
class CachedExperts:
    """Experts that work through a step cache, for `generate`. The transformers are as before after each phase."""

    experts: "WanExperts"
    schedule: Schedule
    cache: StepCache

    @property
    def names(self) -> Collection[Expert]:
        return self.experts.names

    @contextmanager
    def active(self, phase: Phase) -> Iterator[Denoiser]:
        with self.experts.active(phase) as denoiser, self.cache.session(phase) as session:
            if session is None:
                yield denoiser
                return
            with installed(denoiser.transformer, session.wrap(plain(denoiser.transformer.blocks))):
                yield CachedDenoiser(denoiser, self.schedule, session)


def plain(blocks: "Iterable[nn.Module]") -> BlockStack:
    """Blocks as a stack: one after the other, as the transformer itself runs them."""

    def run(x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        for block in blocks:
            x = block(x, context, time_mod, rope)
        return x

    return run
