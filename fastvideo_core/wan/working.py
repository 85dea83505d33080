"""The experts of one generation with all that works around them, and what they tell of it afterwards."""

from dataclasses import dataclass, field
from typing import Protocol

import psutil
import torch

from ..attention.experts import AttendingExperts, AttentionSettings, text_reports
from ..attention.requirements import Situation
from ..attention.sparse import SparseExperts, SparseSchedule
from ..conditioning import Conditioning
from ..generate import Experts
from ..report import Contribution
from ..schedule import Schedule
from ..step_cache.experts import CachedExperts
from ..step_cache.session import StepCache
from .compiled import CompileAccount, CompiledExperts, CompileSettings
from .denoiser import TransformerExperts, WanExperts
from .linear import LinearAccount
from .memory import compute_dtype
from .parts import Transformers
from .placement import MoveAccount


@dataclass(frozen=True, kw_only=True)
class Work:
    """What experts shall do in one generation; data alone. linears: what their linear layers are computed by, and moves: what was
    loaded, of which they keep account there."""

    schedule: Schedule
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    attention: AttentionSettings | None = None
    sparse: SparseSchedule | None = None
    compile: CompileSettings | None = None
    linears: LinearAccount = field(default_factory=LinearAccount)
    moves: MoveAccount = field(default_factory=MoveAccount)


class Working(Protocol):
    """Experts at their work."""

    @property
    def work(self) -> Work: ...

    def experts(self, cache: StepCache | None) -> Experts:
        """For `generate`, through a step cache or without."""
        ...

    @property
    def device(self) -> str:
        """Where they compute, for the report."""
        ...

    def peak_bytes(self) -> int | None:
        """The most memory that they took there, as far as it is known after a step; None where it is not counted."""
        ...

    def contribution(self) -> Contribution:
        """What they did so far beside the cache's part, for the report. It waits for the device."""
        ...


class WorkingExperts:
    """Those of this process."""

    def __init__(self, work: Work, transformers: Transformers, device: torch.device, offload_device: torch.device) -> None:
        """Raises RequestError, NumericsError, ConditioningError as `WanModel.generate`."""
        plain = WanExperts(
            transformers,
            work.conditioning,
            work.latent_shape,
            device,
            offload_device,
            schedule=work.schedule,
            linears=work.linears,
            moves=work.moves,
        )
        self.work, self._device = work, device
        self.attending = None if work.attention is None else AttendingExperts(plain, work.attention)
        dense = self.attending or plain
        self._texts = text_reports(plain if self.attending is None else self.attending.experts, compiled=work.compile is not None)
        self.sparse = None if work.sparse is None else SparseExperts(dense, work.schedule, work.sparse)
        self.compiled = None if work.compile is None else _compiled(self.sparse or dense, work.compile, transformers, device)
        self._working: TransformerExperts = self.compiled or self.sparse or dense

    def experts(self, cache: StepCache | None) -> Experts:
        return self._working if cache is None else CachedExperts(self._working, self.work.schedule, cache)

    @property
    def device(self) -> str:
        return str(self._device)

    def peak_bytes(self) -> int | None:
        """Of allocated device memory, or of the process now, where the device is the CPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return int(psutil.Process().memory_info().rss) if self._device.type == "cpu" else None

    def contribution(self) -> Contribution:
        return Contribution(
            attention=() if self.attending is None else self.attending.reports(),
            texts=self._texts,
            sparse=() if self.sparse is None else self.sparse.reports(),
            notes=() if self.compiled is None else (self.compiled.account.note(),),
        )


def _compiled(
    experts: TransformerExperts, settings: CompileSettings, transformers: Transformers, device: torch.device
) -> CompiledExperts:
    transformer = next(iter(transformers.values()))
    settings.check(Situation.on(device, compute_dtype(transformer), transformer.config.attention_head_dim))
    return CompiledExperts(experts, CompileAccount(settings))
