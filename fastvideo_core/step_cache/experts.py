"""Where a step cache meets a generation on diffusers' network: experts whose block loop goes through the cache.

Neither the loop nor the guidance nor the denoiser knows: before each call the session is told the step and the branches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..around import AroundExperts
from ..errors import CapacityError
from ..guidance import Branch, Prediction
from ..schedule import Phase, Schedule
from ..wan.blocks import installed
from .session import CacheSession, Sessions

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..wan.denoiser import TransformerDenoiser, TransformerExperts


@dataclass(frozen=True)
class CachedDenoiser:
    """A denoiser that announces each call to the session."""

    denoiser: "TransformerDenoiser"
    schedule: Schedule
    session: CacheSession

    @property
    def transformer(self) -> "WanTransformer3DModel":
        return self.denoiser.transformer

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        self.session.begin(self.schedule.step_at(sigma), branches)
        try:
            return self.denoiser.predict(latents, sigma, branches)
        except CapacityError:
            self.session.withdraw()
            raise

    def fits_batched(self, tokens_held: int = 0) -> tuple[bool, str]:
        return self.denoiser.fits_batched(tokens_held + self.session.tokens_held)


@dataclass(frozen=True)
class CachedExperts(AroundExperts):
    """Experts that work through a step cache, for `generate`. The transformers are as before after each phase."""

    experts: "TransformerExperts"
    schedule: Schedule
    cache: Sessions

    @contextmanager
    def active(self, phase: Phase) -> "Iterator[TransformerDenoiser]":
        with self.experts.active(phase) as denoiser, self.cache.session(phase) as session:
            if session is None:
                yield denoiser
                return
            with installed(denoiser.transformer, session.wrap(denoiser.transformer.blocks)):
                yield CachedDenoiser(denoiser, self.schedule, session)
