"""Core's own networks on one rank: files opened there, and calls of them answered together with the other ranks.

Runs in a process that has ComfyUI's modules and nothing of its server. What comes and goes is plain data, tensors, and classes of
core and of the engine: a pack's own classes have other names in each process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from fastvideo_core import Branch, Contribution, LoadError, weights_digest
from fastvideo_core.parallel import AgreedStop, Mesh, Ranks
from fastvideo_core.step_cache import BlockwiseSession, Counts, fingerprint

from .blocks import has_own_kernel
from .call import BRANCHES
from .facts import check_shareable
from .generation import network_weights
from .rank_hooks import RankShard, sharded
from .rank_work import WORKS, RankNetwork, RankWork, wrap

SHARED = "fastvideo_shared"
"""The key of the ranks' own wrapper."""


@dataclass(frozen=True)
class Weights:
    """One state of a network's weights: a file, how core loads it, and patches of it by core's names (LoRAs).

    patched: tells one set of patches from another.
    """

    path: str
    options: Mapping[str, Any]
    patches: Mapping[str, Any]
    patched: Any = None


@dataclass(frozen=True)
class _Share:
    """What a rank has of a call. ranks: those that share its tokens. branches: in this rank's part of the batch. gives: whether
    it gives that part's output. decide: the ranks whose step caches decide together. part: its number in the batch, None for all
    of it. decided: over which branches, where its part is one of them."""

    ranks: Ranks
    branches: tuple[Branch, ...]
    gives: bool
    decide: Ranks
    part: int | None = None
    decided: tuple[Branch, ...] | None = None


class RankNetworks:
    """The networks of one rank by their names, of which one lies on its device at a time, and the step caches at work in them.

    Where another one is asked for, the present one is dropped and the other is read again, which its machine still has in memory:
    put aside, each rank would have a copy of its own.
    """

    def __init__(self, mesh: Mesh, stop_asked: Callable[[], bool] = lambda: False) -> None:
        """stop_asked: whether the call at work is to end; ranks look together."""
        self.mesh, self.device = mesh, comfy.model_management.get_torch_device()
        self._shard = RankShard(mesh.tokens, AgreedStop(mesh.aside, stop_asked))
        self._known: dict[str, Weights] = {}
        self._here: tuple[str, Any] | None = None  # name and `patched` of the one on the device
        self._network: Any = None
        self._facts: dict[str, RankNetwork] = {}
        self._works: dict[str, RankWork] = {}
        self._sessions: dict[str, BlockwiseSession] = {}
        self._rows_of: dict[str, Ranks] = {}  # by cache: who shared the tokens of its last call

    def load(self, name: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Opens a file of core's. Returns what a MODEL of shapes only is made of, and how to tell its weights from others'.

        Raises:
            LoadError: there is no such file on this machine.
            RequestError: it is not a plain Wan network.
        """
        model = self._opened(path, options)
        check_shareable(model, path)
        self._known[name], self._facts[name] = Weights(path, options, {}), RankNetwork.of(model)
        self._here, self._network = (name, None), model
        config, weights = model.model.model_config, network_weights(model)
        return {
            "kind": type(config).__name__,
            "config": dict(config.unet_config),
            "dtype": model.model.get_dtype(),
            "manual_cast_dtype": model.model.manual_cast_dtype,
            "own_kernel": has_own_kernel(model.model.diffusion_model),
            "weights": fingerprint(weights),
            "digest": weights_digest(weights),
        }

    def patch(self, name: str, patches: Mapping[str, Any], patched: Any) -> None:
        """From now on the network is patched so, and not as before."""
        known = self._known[name]
        self._known[name] = Weights(known.path, known.options, patches, patched)

    def open(self, cache: str, session: BlockwiseSession) -> None:
        """A step cache for the calls of one phase. Its decisions are those of all ranks and of both branches."""
        self._sessions[cache] = session

    def close(self, cache: str) -> Counts:
        """Frees what it holds. Returns what it did."""
        session = self._sessions.pop(cache)
        self._rows_of.pop(cache, None)
        session.close()
        return session.counts

    def begin(self, work: str, name: str, kind: str, asked: Mapping[str, Any]) -> None:
        """What else works in calls of a network, those that name it, until `end`: see `WORKS`.

        Raises:
            RequestError, LoadError, NumericsError: it cannot, on this machine or with this network.
        """
        self._works[work] = WORKS[kind](self._facts[name], self._shard, **asked)

    def end(self, work: str) -> Contribution:
        """Frees it. Returns what it did; nothing where it was refused."""
        begun = self._works.pop(work, None)
        return Contribution() if begun is None else begun.contribution()

    def offload(self) -> None:
        """Frees the device, until the next call."""
        self._here = self._network = None
        comfy.model_management.soft_empty_cache()

    def predict(
        self, name: str, given: Mapping[str, Any], parts: Sequence[int], options: Mapping[str, Any], cached: Mapping[str, Any],
        works: Mapping[str, int] = MappingProxyType({}),
    ) -> tuple[int, Tensor] | None:  # fmt: skip
        """One call of a network.

        Args:
            given: its inputs, by core's names: x (n * B, C, T, H, W), timestep, context, ...
            parts: core's number of each of the n conditionings in the batch, 0 for a positive one.
            options: core's transformer options, as far as they are data.
            cached: the step cache that the call belongs to, if any: its name, the step, and the branches to forget.
            works: what else works in it, as begun, and the step.

        Returns the number of this rank's part of the batch, and its output; None where another rank gives the same.

        Raises:
            StoppedError: it was told to stop.
        """
        model = self._on_device(name)
        network = model.model.diffusion_model
        share = self._share(network.num_heads, parts)
        inputs = {key: self._placed(value, share.part, len(parts)) for key, value in given.items()}
        session = self._announced(share, cached)
        own_options: dict[str, Any] = {**options, "cond_or_uncond": list(parts)}
        self._shard.ranks = share.ranks
        self._shard.stop.begin()
        with torch.inference_mode(), self._working(works, network, own_options, session):
            out: Tensor = network(**inputs, transformer_options=own_options)
        return (share.part or 0, out) if share.gives else None

    @contextmanager
    def _working(
        self, works: Mapping[str, int], network: Any, options: dict[str, Any], session: BlockwiseSession | None
    ) -> Iterator[None]:
        """For a call with these options: the rank's share of the tokens, around what works inside of it and inside all else."""

        def shared(executor: Any, x: Any, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
                   transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
            with sharded(network, transformer_options, self._shard, session):
                return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

        each = [(self._works[name], step) for name, step in works.items()]
        with ExitStack() as call:
            for work, step in each:
                if not work.inside:
                    work.join(call, network, options, step)
            wrap(options, SHARED, shared)
            for work, step in each:
                if work.inside:
                    work.join(call, network, options, step)
            yield

    def _share(self, heads: int, parts: Sequence[int]) -> "_Share":
        """Of a call with these parts."""
        mesh = self.mesh
        branches = tuple(BRANCHES[part] for part in parts)
        if mesh.layout.cfg == 1:
            return _Share(mesh.tokens, branches, mesh.tokens.rank == 0, mesh.tokens)
        if len(parts) == mesh.layout.cfg:
            own = branches.index(mesh.branch) if mesh.branch in branches else mesh.branches.rank
            return _Share(mesh.tokens, branches[own : own + 1], mesh.tokens.rank == 0, mesh.everyone, own, branches)
        if mesh.layout.unguided(heads).ulysses == mesh.everyone.size:
            return _Share(mesh.everyone, branches, mesh.everyone.rank == 0, mesh.everyone)
        return _Share(mesh.tokens, branches, mesh.everyone.rank == 0, mesh.tokens)

    def _placed(self, value: Any, part: int | None, parts: int) -> Any:
        if isinstance(value, list):
            return [self._placed(each, part, parts) for each in value]
        if not isinstance(value, Tensor):
            return value
        return (value if part is None else value.chunk(parts)[part]).to(self.device)

    def _announced(self, share: "_Share", cached: Mapping[str, Any]) -> BlockwiseSession | None:
        if not cached:
            return None
        session = self._sessions[cached["cache"]]
        session.forget(cached["forget"])
        if self._rows_of.get(cached["cache"], share.ranks) is not share.ranks:
            session.forget(BRANCHES)  # what was kept is of other rows
        self._rows_of[cached["cache"]] = share.ranks
        session.share(share.decide.sums, share.decided)
        session.begin(cached["step"], share.branches)
        return session

    def _on_device(self, name: str) -> Any:
        known = self._known[name]
        if self._here != (name, known.patched):
            self.offload()
            self._network = self._opened(known.path, known.options)
            self._here = name, known.patched
            self._network.patches, self._network.backup = dict(known.patches), _Forgotten()
        comfy.model_management.load_models_gpu([self._network], force_full_load=True)
        return self._network

    def _opened(self, path: str, options: Mapping[str, Any]) -> Any:
        self.offload()
        placed = {**options, "load_device": self.device, "offload_device": self.device}
        try:
            return comfy.sd.load_diffusion_model(path, placed, disable_dynamic=True)
        except FileNotFoundError as error:
            raise LoadError(f"This machine has no file {path}: every machine needs the model in the same place.") from error


class _Forgotten(dict[str, Any]):
    """Of weights as they were before their patches, which lie on the device: they are read again, not put back."""

    def __setitem__(self, name: str, weight: Any) -> None:
        return None
