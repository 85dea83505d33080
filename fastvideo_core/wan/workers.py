"""Workers: processes with a GPU each, on this machine or others, for one model or many jobs."""

import weakref
from functools import partial
from pathlib import Path
from types import TracebackType

import torch

from ..checks import of_kind, whole
from ..errors import RequestError
from ..parallel.group import Group
from ..parallel.layout import Layout, suggested
from ..parallel.pool import Pool
from ..parallel.rank_host import Entry
from ..parallel.ray_ranks import Machines
from .identity import NetworkIdentity
from .loading.lora_strengths import applied_loras
from .model import WanModel
from .on_workers import GroupRanks, ModelOnWorkers, on_workers
from .pooled import ModelPool
from .sharded_weights import check_layout, check_unquantised


class Workers:
    """To be closed, or used in `with`. Nothing is started before the first generation, and nothing is left after `close`, after
    the last reference, and after the process, however it ends.

    >>> with Workers.local(gpus=8, layout=Layout(cfg=2, ulysses=4)) as workers:  # doctest: +SKIP
    ...     model = workers.load("Wan2.2-T2V-A14B-Diffusers", torch.bfloat16)
    ...     for step in model.generate(request, conditioning, size): ...
    """

    def __init__(self, machines: Machines, layout: Layout | None) -> None:
        self.machines, self.layout = machines, layout
        self._groups: list[Group] = []
        self._end = weakref.finalize(self, _end, machines, self._groups)

    @classmethod
    def local(cls, *, gpus: int | None = None, workers: int | None = None, layout: Layout | None = None) -> "Workers":
        """On this machine.

        Args:
            gpus: how many, a worker each; all where neither is given.
            workers: in their place, how many that compute on the CPU.
            layout: of a model's ranks; by the model's heads when None.

        Raises:
            RequestError: there are not so many GPUs, or the layout asks for others.
        """
        there = torch.cuda.device_count()
        if gpus is None and workers is None:
            gpus = there
        if gpus is not None and workers is None and not 0 < gpus <= there:
            raise RequestError(
                f"{gpus} GPUs were asked for and torch sees {there} here. Use as many, or workers=2 for processes on the CPU."
            )
        return cls._of(None, gpus, workers, layout)

    @classmethod
    def at(cls, address: str, *, gpus: int | None = None, workers: int | None = None, layout: Layout | None = None) -> "Workers":
        """In a Ray cluster that this machine has joined (`ray start --address=head:6379`; with `--num-gpus=0` where it shall not
        compute). Its token must be here too. Every machine needs the model's files in the same place.

        Args:
            address: head:6379, or "auto" for the cluster that this machine is in.
        """
        of_kind("address", address, str, 'it is host:port of the head, or "auto".')
        if gpus is None and workers is None:
            raise RequestError("How many GPUs of the cluster shall work? Give gpus=..., or workers=... for its CPUs.")
        return cls._of(address, gpus, workers, layout)

    @classmethod
    def _of(cls, address: str | None, gpus: int | None, workers: int | None, layout: Layout | None) -> "Workers":
        if gpus is not None and workers is not None:
            raise RequestError(f"gpus={gpus} and workers={workers} were given: workers are on the CPU. Give one of them.")
        of_kind("layout", layout, (Layout, type(None)), "give Layout(cfg=..., ulysses=...), or None.")
        count = whole("gpus" if workers is None else "workers", gpus if workers is None else workers, "one or more.", least=1)
        if layout is not None and layout.ranks != count:
            raise RequestError(f"The layout {layout.text()} is for {layout.ranks} workers, and {count} were asked for.")
        return cls(Machines(count, workers is None, address), layout)

    def load(self, folder: Path | str, dtype: torch.dtype | None = None, *, shard_weights: bool = False) -> ModelOnWorkers:
        """As `WanModel.load`, with the transformers in the workers; see `take`."""
        return self.take(WanModel.load(folder, dtype), shard_weights=shard_weights)

    def take(self, model: WanModel, *, shard_weights: bool = False) -> ModelOnWorkers:
        """A model that was loaded from files, with its transformers in the workers: they open them by name.

        Args:
            shard_weights: workers that share tokens share the weights of the blocks too, for a network that one of them has no
                room for: each holds 1 / ulysses of them, and gathers a block's before it computes it. LoRAs are fused into them
                by the first generation, and come before it. Without a layout, all workers share tokens.

        Raises:
            RequestError: it is not known what it was loaded from, or the layout does not divide its heads; or weights were to be
                shared, and they are quantised, or there is nobody to share them with.
        """
        of_kind("shard_weights", shard_weights, bool, "give True or False.")
        heads = next(iter(model.transformers.values())).config.num_attention_heads
        layout = self.layout or suggested(self.machines.count, heads, guided=not shard_weights)
        layout.check(heads)
        if shard_weights:
            check_layout(layout)
            check_unquantised(model.files)
        ranks = GroupRanks(self._group(model, layout, shard_weights), layout, self._device, shard_weights)
        return on_workers(model, ranks, self)

    def pool(self, model: WanModel) -> ModelPool:
        """For whole jobs, of which each worker makes one at a time: `generate_many(pool, jobs)`."""
        groups = [self._group(model, Layout()) for _ in range(self.machines.count)]
        return ModelPool(model, Pool(groups), self)

    def close(self) -> None:
        """No worker is left; their models cannot be used any more."""
        self._end()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _device(self) -> str:
        return "cuda" if self.machines.gpus else "cpu"

    def _group(self, model: WanModel, layout: Layout, shard_weights: bool = False) -> Group:
        if not self._end.alive:
            raise RequestError("These workers are closed. Make new ones: Workers.local(...).")
        if set(model.files) != set(model.transformers) or any(map(applied_loras, model.transformers.values())):
            raise RequestError(
                "Workers open a model's files by name, and this model has others, or LoRAs. Load it from files with nothing on "
                "it; LoRAs come after: model.apply_lora(expert, path, strength)."
            )
        weights = {expert: str(NetworkIdentity.of(each).json()["weights"]) for expert, each in model.transformers.items()}
        entry = Entry("fastvideo_core.wan.rank", "RankModel", (self._device, dict(model.files), weights, shard_weights))
        group = Group(partial(self.machines.start, layout, entry))
        self._groups.append(group)
        return group


def _end(machines: Machines, groups: list[Group]) -> None:
    for group in groups:
        group.end()
    if groups:
        machines.leave()
