"""Experts that are elsewhere, as one generation sees them: loop, guidance and solver are here, and only calls of the network go
to ranks. What goes there is data alone."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..guidance import Branch, Denoiser, Prediction
from ..report import Contribution, distinct, summed_attention
from ..schedule import Phase
from ..step_cache.session import BlockwiseSession, StepCache
from .at_work import at_work
from .loading.lora_strengths import applied_loras
from .parts import Transformers
from .ranked import PhaseAccount, PhaseOpening
from .working import Work


class Ranks(Protocol):
    """Those of one layout, which are asked together; see `RankModel`."""

    @property
    def running(self) -> bool:
        """Whether they are still those that were asked before."""
        ...

    @property
    def title(self) -> str:
        """What they are, for the report."""
        ...

    def ask(self, method: str, *given: object, stoppable: bool = False) -> Sequence[Any]:
        """The answers, in the order of the ranks."""
        ...


@dataclass(frozen=True)
class AskedDenoiser:
    """One phase that is open on the ranks."""

    ranks: Ranks

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        velocities = self.ranks.ask("call", latents.cpu(), sigma, branches, stoppable=True)[0]
        return Prediction([velocity.to(latents.device) for velocity in velocities], [branches])

    def fits_batched(self) -> tuple[bool, str]:
        fits, words = self.ranks.ask("fits")[0]
        return bool(fits), str(words)


@dataclass
class AskedExperts:
    """As `Working` and as its experts. transformers: the same networks here, which only tell which they are; claim: makes them
    this generation's own."""

    ranks: Ranks
    work: Work
    transformers: Transformers
    claim: Callable[[Iterable[nn.Module]], AbstractContextManager[None]] = at_work
    cache: StepCache | None = None
    _accounts: list[PhaseAccount] = field(default_factory=list, init=False)

    def experts(self, cache: StepCache | None) -> "AskedExperts":
        self.cache = cache
        return self

    @property
    def names(self) -> Collection[str]:
        return self.transformers.keys()

    @property
    def device(self) -> str:
        return self.ranks.title

    @contextmanager
    def loaded(self, expert: str) -> Iterator[None]:
        network = self.transformers[expert]
        with self.claim(self.transformers.values()):
            self.work.moves.networks.add(id(network))
            self.work.moves.moves += 1
            self.ranks.ask("load", expert, applied_loras(network))
            try:
                yield
            finally:
                if self.ranks.running:
                    self.ranks.ask("offload")

    @contextmanager
    def active(self, phase: Phase) -> Iterator[Denoiser]:
        with self._session(phase) as session:
            self.ranks.ask("open", self._opening(phase, session))
            try:
                yield AskedDenoiser(self.ranks)
            finally:
                if self.ranks.running:
                    account = PhaseAccount.of_all(self.ranks.ask("close"))
                    self._accounts.append(account)
                    self.work.linears.add(account.linears)
                    if session is not None and account.cache is not None:
                        session.take(account.cache)

    def contribution(self) -> Contribution:
        accounts = self._accounts
        return Contribution(
            attention=summed_attention([row for account in accounts for row in account.attention]),
            texts=distinct([row for account in accounts for row in account.texts]),
            sparse=tuple(row for account in accounts for row in account.sparse),
            notes=distinct([note for account in accounts for note in account.notes]),
        )

    def peak_bytes(self) -> int | None:
        """Of one rank's device, the most in a phase that is over."""
        peaks = [account.peak_bytes for account in self._accounts if account.peak_bytes is not None]
        return max(peaks, default=None)

    def _opening(self, phase: Phase, session: BlockwiseSession | None) -> PhaseOpening:
        work = self.work
        return PhaseOpening(
            schedule=work.schedule, phase=phase, conditioning=work.conditioning, latent_shape=work.latent_shape, session=session,
            attention=work.attention, sparse=work.sparse, compile=work.compile, linears=work.linears.json(),
        )  # fmt: skip

    def _session(self, phase: Phase) -> AbstractContextManager[Any]:
        """A fresh one of the cache, if any, in which nothing runs here."""
        return nullcontext() if self.cache is None else self.cache.session(phase)
