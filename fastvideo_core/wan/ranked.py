"""What a rank is to its parent: experts whose phases are opened by data, called, and closed with an account.

A parent asks all ranks the same at once, method by method: `load`, then for each phase of that expert `open`, any number of
`call`s and `close`, at last `offload`. All that goes there and comes back is data: frozen settings, tensors on the CPU, reports.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..attention.experts import AttendingExperts, AttentionSettings, text_reports
from ..attention.sparse import SparseExperts, SparseSchedule
from ..conditioning import Conditioning
from ..errors import RequestError
from ..guidance import BOTH, Branch
from ..parallel.ranks import Mesh
from ..parallel.stop import AgreedStop
from ..report import AttentionReport, SparseReport, TextReport, of_all_ranks
from ..schedule import Phase, Schedule
from ..step_cache.experts import CachedExperts
from ..step_cache.session import BlockwiseSession, Counts
from .compiled import CompileAccount, CompiledExperts, CompileSettings
from .denoiser import TransformerExperts, WanExperts
from .memory import WAYS_OUT, network_too_large
from .placement import held, is_group_offloaded, room
from .sharded import RankDenoiser, Shard, ShardedExperts, UlyssesExperts, UlyssesSparse
from .sharded_weights import GATHERED, ShardedWeights, check_layout

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True, kw_only=True)
class PhaseOpening:
    """What a phase is opened with. conditioning, latent_shape: as for `WanExperts`; session: a fresh one of a step cache, in
    which nothing ran; linears: what layers were computed by before, for `LinearAccount.take`; the others as for
    `WanModel.generate`."""

    schedule: Schedule
    phase: Phase
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    session: BlockwiseSession | None = None
    attention: AttentionSettings | None = None
    sparse: SparseSchedule | None = None
    compile: CompileSettings | None = None
    linears: Sequence[Sequence[int | str]] = ()


@dataclass(frozen=True, kw_only=True)
class PhaseAccount:
    """What one rank did in a phase. peak_bytes: of device memory; None where it is not counted. notes: for the report."""

    cache: Counts | None
    attention: tuple[AttentionReport, ...]
    sparse: tuple[SparseReport, ...]
    texts: tuple[TextReport, ...]
    linears: Sequence[Sequence[int | str]]
    peak_bytes: int | None
    notes: tuple[str, ...]

    @classmethod
    def of_all(cls, accounts: "Sequence[PhaseAccount]") -> "PhaseAccount":
        """Of a phase by all of its ranks: the first one's, with the most memory, and the mean density of sparse attention, whose
        ranks choose tiles for own heads."""
        first = accounts[0]
        sparse = [of_all_ranks(rows) for rows in zip(*(account.sparse for account in accounts), strict=True)]
        held = max((account.cache.peak_bytes for account in accounts if account.cache is not None), default=0)
        peaks = [account.peak_bytes for account in accounts if account.peak_bytes is not None]
        return replace(
            first,
            cache=None if first.cache is None else first.cache._replace(peak_bytes=held),
            sparse=tuple(row for row, _ in sparse),
            peak_bytes=max(peaks, default=None),
            notes=(*first.notes, *(note for _, note in sparse if note)),
        )


def check_session(session: object) -> None:
    """Raises RequestError where ranks could not decide together."""
    if not isinstance(session, BlockwiseSession):
        raise RequestError(
            f"A step cache of another package ({type(session).__name__}) was asked for on ranks, and decides on each of them by "
            "itself: ranks that decide differently wait for each other for ever. Use with_dbcache() or with_magcache()."
        )


def never() -> bool:
    """Nobody asks for a stop."""
    return False


class RankExperts:
    """The experts of one model on one rank of a mesh. One is loaded at a time, and one phase of it open."""

    def __init__(
        self,
        transformers: "Mapping[str, WanTransformer3DModel]",
        mesh: Mesh,
        device: torch.device,
        offload_device: torch.device,
        asked: Callable[[], bool] = never,
        *,
        shard_weights: bool = False,
    ) -> None:
        """asked: whether this rank was told to stop what it does now. shard_weights: whether ranks that share tokens share the
        weights of the blocks too, of each network from its first loading on.

        Raises:
            RequestError: the experts' heads cannot be divided as the layout says, or weights have nobody to be shared with.
        """
        if shard_weights:
            check_layout(mesh.layout)
        for transformer in transformers.values():
            mesh.layout.check(transformer.config.num_attention_heads)
        self.transformers, self.mesh = transformers, mesh
        self.device, self.offload_device = device, offload_device
        self.stop, self.shard_weights = AgreedStop(mesh.aside, asked), shard_weights
        self._weights: dict[WanTransformer3DModel, ShardedWeights] = {}
        self._loaded = ExitStack()
        self._phase: _Open | None = None
        self._entered = ExitStack()

    def load(self, expert: str) -> None:
        """Its weights are on the device until `offload`; with group offloading they go there by themselves.

        Raises:
            CapacityError: they do not fit.
        """
        self.offload()
        network = self.transformers[expert]
        if self.shard_weights and network not in self._weights:
            ways_out = "Share them by more ranks, or load them in bfloat16 in the place of float32"
            too_large = network_too_large(network, self.device, f"{self.mesh.tokens.size} ranks were to share them. {ways_out}")
            with room(lambda: too_large):
                self._weights[network] = ShardedWeights(network, self.mesh.tokens, self.device)
        if not is_group_offloaded(network):
            # Moved to the CPU, each rank would have a copy of its own of what all of them map from one file; of what they share,
            # all of them together have one.
            copied = network in self._weights or self.offload_device == self.device
            back = self.offload_device if copied else None
            self._loaded.enter_context(held(network, self.device, back, WAYS_OUT))

    def offload(self) -> None:
        """No expert is loaded, no phase open. It may be asked for at any time."""
        self.close()
        self._loaded.close()

    def open(self, opening: PhaseOpening) -> None:
        """A phase begins; one that is open ends.

        Raises:
            RequestError: what was asked for cannot run on this rank.
        """
        self.close()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._phase = self._entered.enter_context(self._opened(opening))

    def call(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Sequence[Tensor] | None:
        """One call of the network, by all ranks.

        Args:
            latents: (B, C, T, H, W) float32, on the CPU.

        Returns the velocity of each branch, (B, C, T, H, W) float32 on the CPU, from the first rank, and None from the others.

        Raises:
            StoppedError: it was told to stop, on all ranks before the same block.
        """
        prediction = self.denoiser.predict(latents.to(self.device), sigma, branches)
        return [velocity.cpu() for velocity in prediction.velocities] if self.mesh.everyone.rank == 0 else None

    def fits(self) -> tuple[bool, str]:
        """Whether both branches fit into the memory of all ranks in one call, and the figures in words."""
        return self.denoiser.fits_batched()

    def close(self) -> PhaseAccount | None:
        """The phase is over: the network is as before, and what caches held is free. None where none was open."""
        phase, self._phase = self._phase, None
        with self._entered:
            return None if phase is None else phase.account(self._peak_bytes())

    @property
    def denoiser(self) -> RankDenoiser:
        """Of the phase that is open: for a process that has the loop itself. Each rank has the velocities of all branches."""
        if self._phase is None:
            raise RequestError("A call of the network was asked for, and no phase is open on this rank: open one before.")
        return self._phase.denoiser

    def _peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def _opened(self, opening: PhaseOpening) -> "Iterator[_Open]":
        expert = opening.phase.expert
        network = {expert: self.transformers[expert]}
        mesh = self._mesh(opening.phase)
        places = self.device, self.offload_device
        plain = WanExperts(network, opening.conditioning, opening.latent_shape, *places, schedule=opening.schedule)
        plain.linears.take(opening.linears)
        phase = _Open(opening, plain, mesh, Shard(mesh.tokens, self.stop), self._weights.get(self.transformers[expert]))
        if opening.session is not None:
            check_session(opening.session)
        if opening.session is not None and mesh.everyone.size > 1:
            opening.session.share(mesh.everyone.sums, BOTH if mesh.branches.size > 1 else None)
        experts = phase.experts()  # before the network is theirs
        with plain.loaded(expert), experts.active(opening.phase) as denoiser:
            phase.denoiser = RankDenoiser(denoiser, mesh, self.stop)
            yield phase

    def _mesh(self, phase: Phase) -> Mesh:
        heads = self.transformers[phase.expert].config.num_attention_heads
        return self.mesh if phase.guided or self.mesh.layout.cfg == 1 else self.mesh.unguided(heads)


@dataclass
class _Open:
    """A phase that is open on this rank."""

    opening: PhaseOpening
    plain: WanExperts
    mesh: Mesh
    shard: Shard
    weights: ShardedWeights | None
    denoiser: RankDenoiser = field(init=False)
    texts: tuple[TextReport, ...] = field(default=(), init=False)
    attending: AttendingExperts | None = field(default=None, init=False)
    sparse: SparseExperts | None = field(default=None, init=False)
    compiled: CompiledExperts | None = field(default=None, init=False)

    def experts(self) -> ShardedExperts:
        """Those of one process, with the rank's part around self-attention and around all that is at the seam."""
        opening, schedule = self.opening, self.opening.schedule
        if opening.attention is not None:
            self.attending = AttendingExperts(self.plain, opening.attention)
        gathered = 0 if self.weights is None else GATHERED * self.weights.block_bytes
        ulysses = UlyssesExperts(self.attending or self.plain, self.shard, gathered)
        working: TransformerExperts = ulysses
        if opening.sparse is not None:
            working = self.sparse = SparseExperts(ulysses, schedule, opening.sparse, partial(UlyssesSparse, shard=self.shard))
        if opening.compile is not None:
            working = self.compiled = CompiledExperts(working, CompileAccount(opening.compile))
        if opening.session is not None:
            working = CachedExperts(working, schedule, _OneSession(opening.session))
        reading = self.plain if self.attending is None else self.attending.experts
        self.texts = text_reports(reading, compiled=opening.compile is not None)
        return ShardedExperts(working, self.shard, self.weights)

    def account(self, peak_bytes: int | None) -> PhaseAccount:
        opening = self.opening
        return PhaseAccount(
            cache=None if opening.session is None else opening.session.counts,
            attention=() if self.attending is None else self.attending.reports(),
            sparse=() if self.sparse is None else self.sparse.reports(),
            texts=self.texts,
            linears=self.plain.linears.json(),
            peak_bytes=peak_bytes,
            notes=(
                *(() if self.compiled is None else (self.compiled.account.note(),)),
                *(() if self.weights is None else (self.weights.note(),)),
                *self._notes_of_halves(),
            ),
        )

    def _notes_of_halves(self) -> Iterator[str]:
        phase, ranks = self.opening.phase, self.mesh.everyone.size
        if self.mesh.layout.ranks < ranks:
            yield (
                f"the {phase.expert} expert's phase from step {phase.start + 1} on has no guidance, and its heads cannot be "
                f"shared by {ranks} ranks: each half of them computed the same"
            )


@dataclass(frozen=True)
class _OneSession:
    """`Sessions` of a cache that opened one for this phase elsewhere."""

    opened: BlockwiseSession

    @contextmanager
    def session(self, phase: Phase) -> Iterator[BlockwiseSession]:
        try:
            yield self.opened
        finally:
            self.opened.close()
