"""A model's file in workers, as the process with the loop asks for it."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from fastvideo_core import Contribution, GuidanceSettings, LoadError, RequestError
from fastvideo_core.parallel import Group
from fastvideo_core.step_cache import BlockwiseSession, Counts, Fingerprint

from .worker_file import heads_of
from .workers import NativeWorkers


class RemoteModel:
    """One file in the ranks of a group, which they open again where they were started again.

    calls: of the network; alone: those with one branch that half of the ranks computed as well.
    """

    def __init__(self, workers: NativeWorkers, path: Path, options: Mapping[str, Any]) -> None:
        self.workers, self.path, self.options = workers, path, options
        self.layout = workers.layout(heads_of(path))
        self.name = f"{path.name} {uuid.uuid4().hex}"
        self.calls = self.alone = 0
        self._patches: tuple[Mapping[str, Any], str | None] = {}, None  # to be sent before the next call
        self._told: tuple[str, ...] = ()  # the ranks that have the file
        self._patched: str | None = None  # by what, there
        self._opened: dict[str, tuple[str, ...]] = {}  # step caches and what else works there: the ranks that have it
        self.facts = self._loaded()[0]

    @property
    def title(self) -> str:
        return self.workers.title(self.layout)

    @property
    def weights(self) -> Fingerprint:
        """Of the file's, before LoRAs and other patches."""
        found: Fingerprint = self.facts["weights"]
        return found

    def check_branches(self, guidance: GuidanceSettings) -> None:
        """Raises RequestError for guidance in which half of the workers would have nothing of their own to do."""
        if self.layout.cfg > 1 and (guidance.mode == "sequential" or guidance.gate < 1):
            asked = "guidance_mode is sequential" if guidance.mode == "sequential" else f"gate is {guidance.gate:g}"
            raise RequestError(
                f"{asked}, and the layout {self.layout.text()} has a half of the workers for each branch of guidance, which run "
                "in one call. Set guidance_mode to auto and gate to 1, or give FastVideo Workers a layout with cfg 1."
            )

    def patch(self, patches: Mapping[str, Any], patched: str | None) -> None:
        """From the next call on. patched: tells one set of patches from another; None for no patches."""
        self._patches = patches, patched

    def predict(
        self, given: Mapping[str, Any], parts: list[int], options: Mapping[str, Any], cached: Mapping[str, Any],
        works: Mapping[str, int],
    ) -> Tensor:  # fmt: skip
        """As `RankNetworks.predict`; returns the output of the whole batch.

        Raises:
            WorkerError: a rank is gone. The next call has new ones.
        """
        group = self.ready()
        patches, patched = self._patches
        if patched != self._patched:
            self._tell(group, "patch", self.name, patches, patched)
            self._patched = patched
        self.calls += 1
        self.alone += len(parts) < self.layout.cfg and not self._all_share_one
        outs = self._ask(group, "predict", self.name, given, parts, options, cached, works, stoppable=True)
        parts_of_batch = sorted((out for out in outs if out is not None), key=lambda out: out[0])
        return torch.cat([out for _, out in parts_of_batch])

    def ready(self) -> Group:
        """The group, with the file open in it."""
        group = self.workers.group(self.layout)
        if not group.running or tuple(group.names()) != self._told:
            self._loaded()
        return group

    def open(self, cache: str, session: BlockwiseSession) -> None:
        """As `RankNetworks.open`, before the first call through this cache."""
        if cache not in self._opened:
            self._tell(self.ready(), "open", cache, session)
            self._opened[cache] = self._told

    def close(self, cache: str) -> list[Counts]:
        """What each rank tells as `RankNetworks.close`; nothing where the ranks that it was opened in are gone."""
        return self._ended("close", cache)

    def check(self, node: str, kind: str, asked: Mapping[str, Any], already: bool) -> None:
        """Whether `begin` could do this. already: whether it is on the MODEL.

        Raises:
            RequestError: it is there already, or cannot work there.
        """
        if already:
            raise RequestError(f"There are two {node} nodes on one MODEL: remove or bypass one of the two.")
        name = uuid.uuid4().hex
        try:
            self.begin(name, kind, asked)
        finally:
            self.end(name)

    def begin(self, work: str, kind: str, asked: Mapping[str, Any]) -> None:
        """As `RankNetworks.begin`, before the first call that names it. `end` follows in any case."""
        group = self.ready()
        self._opened[work] = self._told
        self._ask(group, "begin", work, self.name, kind, asked)

    def end(self, work: str) -> list[Contribution]:
        """What each rank tells as `RankNetworks.end`; nothing where the ranks that it was begun in are gone."""
        return self._ended("end", work)

    def _ended(self, method: str, name: str) -> list[Any]:
        group, opened = self.workers.running(self.layout), self._opened.pop(name, ())
        return self._tell(group, method, name) if group is not None and opened == tuple(group.names()) else []

    def offload(self) -> None:
        """Frees the workers' devices until the next call."""
        group = self.workers.running(self.layout)
        if group is not None:
            self._tell(group, "offload")

    def _tell(self, group: Group, method: str, *given: object) -> list[Any]:
        """Of all ranks."""
        return group.ask(method, [given] * self.layout.ranks)

    def _ask(self, group: Group, method: str, *given: object, stoppable: bool = False) -> list[Any]:
        """What takes long: ComfyUI's interrupt ends it."""
        interrupted = comfy.model_management.throw_exception_if_processing_interrupted
        return group.ask(method, [given] * self.layout.ranks, interrupted, stoppable=stoppable)

    @property
    def _all_share_one(self) -> bool:
        """Whether all ranks can share the tokens of one branch."""
        return self.layout.unguided(self.facts["config"]["num_heads"]).ranks == self.layout.ranks

    def _loaded(self) -> list[dict[str, Any]]:
        """What each rank tells of the file.

        Raises:
            LoadError: it is another one on one of the machines.
        """
        group = self.workers.group(self.layout)
        found = self._ask(group, "load", self.name, str(self.path), dict(self.options))
        names = group.names()
        for name, facts in zip(names, found, strict=True):
            if facts["digest"] != found[0]["digest"]:
                raise LoadError(
                    f"{self.path} holds other weights for {name} than for {names[0]}. Every machine needs the same file in the "
                    "same place."
                )
        self._told, self._patched = tuple(names), None
        return found
