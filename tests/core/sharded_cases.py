"""Calls and generations of Wan networks by several ranks, against the same by one process: what each rank does in tests."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import WanTransformer3DModel
from sharded_networks import CPU, HEADS, conditioning, latents, network
from torch import Tensor, nn

from fastvideo_core import AttentionSettings, CompileSettings, SamplingRequest, apply_lora, group_offload
from fastvideo_core.attention.experts import AttendingExperts
from fastvideo_core.attention.sparse import SparseExperts, SparseSchedule
from fastvideo_core.guidance import BOTH
from fastvideo_core.parallel import Mesh
from fastvideo_core.schedule import Phase
from fastvideo_core.step_cache import CachedExperts
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.compiled import CompileAccount, CompiledExperts
from fastvideo_core.wan.ranked import PhaseAccount, PhaseOpening, RankExperts

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Model:
    """A network and its video. size: in latents."""

    kind: str
    size: Size
    samples: int = 1
    dtype: torch.dtype = torch.float64
    layers: int = 2
    heads: int = HEADS
    attention: AttentionSettings | None = None
    sparse: SparseSchedule | None = None
    compile: CompileSettings | None = None
    offloaded: bool = False
    shard_weights: bool = False
    lora: Path | None = None
    trained: str = ""  # a layer that its self-attention has for a sparse variant

    @property
    def latents(self) -> Tensor:
        return latents(self.kind, self.size, self.samples)

    @property
    def tokens(self) -> int:
        return self.size[0] * self.size[1] * self.size[2] // 4

    def networks(self, names: Collection[str] = ("single",)) -> dict[str, WanTransformer3DModel]:
        made = {name: network(self.kind, seed, self.dtype, self.layers, self.heads) for seed, name in enumerate(names)}
        width = {"to_gate_compress": 12 * self.heads, "proj_l": 12}.get(self.trained, 0)
        for block in (block for each in made.values() for block in each.blocks if width):
            layer = tiny.seeded(9, nn.Linear, width, width).to(self.dtype).requires_grad_(False)
            setattr(block.attn1, self.trained, layer)
        for each in made.values() if self.lora else ():
            apply_lora(each, self.lora, 0.5)
        for each in made.values() if self.offloaded else ():
            group_offload(each, CPU, blocks_per_group=1)
        return made

    def alone(self, networks: dict[str, WanTransformer3DModel], asked: SamplingRequest, cache: Any = None) -> Any:
        """The experts of one process."""
        schedule, shape = asked.plan(), tuple(self.latents.shape)
        experts: Any = WanExperts(networks, conditioning(self.kind, self.size), shape, CPU, CPU, schedule=schedule)
        if self.attention is not None:
            experts = AttendingExperts(experts, self.attention)
        if self.sparse is not None:
            experts = SparseExperts(experts, schedule, self.sparse)
        if self.compile is not None:
            experts = CompiledExperts(experts, CompileAccount(self.compile))
        return experts if cache is None else CachedExperts(experts, schedule, cache)

    def ranked(
        self, mesh: Mesh, networks: dict[str, WanTransformer3DModel], asked: SamplingRequest, cache: Any = None,
        told: Callable[[], bool] = lambda: False,
    ) -> "Ranked":  # fmt: skip
        """Those of a rank."""
        schedule = asked.plan()
        opening = PhaseOpening(
            schedule=schedule, phase=schedule.phases[0], conditioning=conditioning(self.kind, self.size),
            latent_shape=tuple(self.latents.shape), attention=self.attention, sparse=self.sparse, compile=self.compile,
        )  # fmt: skip
        return Ranked(RankExperts(networks, mesh, CPU, CPU, told, shard_weights=self.shard_weights), opening, cache)


@dataclass
class Ranked:
    """`Experts` of a process that is a rank and has the loop itself."""

    rank: RankExperts
    opening: PhaseOpening
    cache: Any = None
    accounts: list[PhaseAccount] = field(default_factory=list)

    @property
    def names(self) -> Collection[str]:
        return self.rank.transformers

    @contextmanager
    def loaded(self, expert: str) -> Iterator[None]:
        self.rank.load(expert)
        try:
            yield
        finally:
            self.rank.offload()

    @contextmanager
    def active(self, phase: Phase) -> Iterator[Any]:
        with self._session(phase) as session:
            self.rank.open(replace(self.opening, phase=phase, session=session))
            try:
                yield self.rank.denoiser
            finally:
                account = self.rank.close()
                assert account is not None
                self.accounts.append(account)

    @contextmanager
    def _session(self, phase: Phase) -> Iterator[Any]:
        if self.cache is None:
            yield None
            return
        with self.cache.session(phase) as session:
            yield session


def request(steps: int = 4, guidance_scale: float = 4.0, **changes: Any) -> SamplingRequest:
    return SamplingRequest(steps=steps, shift=5.0, guidance_scale=guidance_scale, solver="euler", seed=1, **changes)


def predicted(experts: Any, model: Model, sigmas: Sequence[float] = (0.9,)) -> Tensor:
    """Both branches at some noise levels, (levels, branches, B, C, T, H, W)."""
    phase = request().plan().phases[0]
    with experts.loaded("single"), experts.active(phase) as denoiser:
        return torch.stack([torch.stack(list(denoiser.predict(model.latents, sigma, BOTH).velocities)) for sigma in sigmas])


def error(found: Tensor, expected: Tensor) -> float:
    """0 where they are equal bit by bit."""
    return 0.0 if torch.equal(found, expected) else max(tiny.relative_error(found, expected), 1e-300)


def against_one(mesh: Mesh, models: Sequence[Model]) -> list[tuple[float, Tensor]]:
    """Of each, how far the velocities are from those of one process, by the first rank, and what they are on this one."""
    found = []
    for model in models:
        networks = model.networks()
        alone = predicted(model.alone(networks, request()), model) if mesh.everyone.rank == 0 else None
        together = predicted(model.ranked(mesh, networks, request()), model)
        found.append((0.0 if alone is None else error(together, alone), together))
    return found
