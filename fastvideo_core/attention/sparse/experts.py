"""Where sparse attention meets a generation: experts whose self-attention is sparse as the schedule says."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ...around import AroundExperts
from ...guidance import Branch, Prediction
from ...report import SparseReport
from ...schedule import Phase, Schedule
from ..experts import situation_of
from .kernel import Kernel
from .memory import Layer
from .processor import sparse_attention
from .schedule import SparseSchedule
from .select import prepare_kernel
from .session import SparseSession, as_it_is
from .tiles import Size
from .variant import SparseAttention

if TYPE_CHECKING:
    import torch
    from diffusers import WanTransformer3DModel

    from ...wan.denoiser import TransformerDenoiser, WanDenoiser


class DenoisingExperts(Protocol):
    """`WanExperts` or `AttendingExperts`."""

    @property
    def names(self) -> Collection[str]: ...

    @property
    def transformers(self) -> "Mapping[str, WanTransformer3DModel]": ...

    @property
    def device(self) -> "torch.device": ...

    def loaded(self, expert: str) -> AbstractContextManager[object]: ...

    def active(self, phase: Phase) -> "AbstractContextManager[WanDenoiser]": ...


@dataclass(frozen=True)
class SparseDenoiser:
    """A denoiser that announces each call to the session. attention_bytes: what self-attention holds of one video."""

    denoiser: "WanDenoiser"
    schedule: Schedule
    session: SparseSession
    attention_bytes: int

    @property
    def transformer(self) -> "WanTransformer3DModel":
        return self.denoiser.transformer

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        self.session.begin(self.schedule.step_at(sigma))
        return self.denoiser.predict(latents, sigma, branches)

    def fits_batched(self, tokens_held: int = 0) -> tuple[bool, str]:
        return self.denoiser.fits_batched(tokens_held, self.attention_bytes)


@dataclass
class SparseExperts(AroundExperts):
    """Experts of one generation whose self-attention is sparse, for `generate`. After each phase the transformer is as before.
    around: what works around the attention of each phase.

    Raises:
        RequestError: the kernel cannot run on the experts' device in their dtype; with every reason.
        NumericsError: it gives wrong values there.
    """

    experts: DenoisingExperts
    schedule: Schedule
    sparse: SparseSchedule
    around: Callable[[SparseAttention], SparseAttention] = as_it_is
    _kernels: dict[str, Kernel] = field(init=False)
    _sessions: list[SparseSession] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._kernels = {name: prepare_kernel(self.sparse, situation_of(self.experts, name)) for name in self.experts.names}

    @contextmanager
    def active(self, phase: Phase) -> "Iterator[TransformerDenoiser]":
        with self.experts.active(phase) as denoiser:
            text = denoiser.conditioning.positive
            kernel = self._kernels[phase.expert]
            session = SparseSession.open(self.sparse, phase, token_grid(denoiser), text.device, kernel, self.around)
            if session is None:
                yield denoiser
                return
            self._sessions.append(session)
            with sparse_attention(denoiser.transformer, session):
                videos = 2 * denoiser.latent_shape[0]
                layer = Layer.of(denoiser.transformer.blocks[0].attn1, text.dtype, text.device, videos)
                yield SparseDenoiser(denoiser, self.schedule, session, session.attention.held_bytes(layer))

    def reports(self) -> tuple[SparseReport, ...]:
        """Of the sparse phases so far. It waits for the device."""
        return tuple(session.report() for session in self._sessions)


def token_grid(denoiser: "WanDenoiser") -> Size:
    """The video's size in tokens: its latents in the transformer's patches."""
    patch = denoiser.transformer.config.patch_size
    time, height, width = (extent // part for extent, part in zip(denoiser.latent_shape[2:], patch, strict=True))
    return time, height, width
