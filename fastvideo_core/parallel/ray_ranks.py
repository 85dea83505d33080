"""Ranks as Ray's actors. This file alone knows Ray, which starts them, carries what they are asked, and finds that one is gone.

Ray is started when ranks are first asked for, and ends with the last ranks that this process has. All that it listens on asks
for a token (RAY_AUTH_MODE=token): without one, whoever reaches the machine could run code on it.
"""

import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Lock, Thread
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import torch

from ..errors import FastVideoError, RequestError, WorkerError
from .environment import during, guarded, make_token
from .layout import Layout
from .rank_host import PACK, Entry, RankHost, Where, read, written

NAMESPACE = "fastvideo"
PLACED_SECONDS = 30.0
"""So long ranks wait for GPUs that others are about to leave; more are not coming."""
SETTINGS: Mapping[str, int] = MappingProxyType({
    "health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3, "worker_niceness": 0,
})  # fmt: skip
"""Of Ray here: a machine that is frozen is found within 10 s in the place of a minute, and ranks get as much of the processor as
the process that waits for them; as Ray has it (15), whatever else runs comes before them."""
STORE_BYTES = 2**30
"""Of memory that Ray shares between the processes of a machine, at most: it is taken as it is needed, and more goes to disk."""


@dataclass(frozen=True)
class Machines:
    """Where ranks run. count: how many there will be in all. gpus: whether each has a GPU of its own; otherwise it computes on
    the CPU. address: of a Ray cluster that this machine has joined, "auto" for the only one; None for this machine alone."""

    count: int
    gpus: bool = True
    address: str | None = None
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)
    _names: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # Ray's, of all that were started

    def start(self, layout: Layout, entry: Entry) -> "list[RayRank]":
        """Those of one layout, which have not begun to be what the entry says. Ranks that share tokens are on one machine.

        Raises:
            RequestError: Ray is not installed, or there are not so many free GPUs.
            WorkerError: Ray could not be started.
        """
        ray = _ray()
        with self._lock:
            self._connect(ray)
        places = self._places(ray, layout)
        actors = [self._actor(ray, place) for place in places]
        meeting = self._meeting(ray, actors[0], layout)
        return [
            RayRank(ray, actor, place, (entry, layout, rank, meeting))
            for rank, (actor, place) in enumerate(zip(actors, places, strict=True))
        ]

    def leave(self) -> None:
        """Ray ends, where it was started for this and others have no ranks in it. All ranks were ended before."""
        if not self._names:
            return
        ray = _ray()
        if ray.is_initialized() and ray.get_runtime_context().namespace.startswith(f"{NAMESPACE}-"):
            from ray.util import list_named_actors

            if set(list_named_actors()) <= self._names:
                ray.shutdown()

    def _meeting(self, ray: Any, first: Any, layout: Layout) -> str:
        """Where the ranks find each other: on one machine nothing listens for it."""
        if self.address is None:
            return (Path(tempfile.mkdtemp(prefix="fastvideo-")) / "meeting").as_uri()
        try:
            where: str = ray.get(first.meeting.remote())
        except ray.exceptions.RayError as error:
            raise WorkerError(f"Rank 0 of {layout.ranks} is gone, while it was started: {error}") from error
        return where

    @property
    def _each(self) -> dict[str, float]:
        """What a rank takes of its machine."""
        return {"GPU": 1} if self.gpus else {"CPU": 1}

    @property
    def _threads(self) -> int:
        """Of each rank; 0 for as many as its machine has."""
        return 0 if self.gpus or self.address else max(1, torch.get_num_threads() // self.count)

    def _connect(self, ray: Any) -> None:
        prefix = f"{NAMESPACE}-{self.address or 'here'}-"
        if ray.is_initialized():
            found = ray.get_runtime_context().namespace
            if not found.startswith(prefix):
                raise RequestError(
                    "This process is connected to another Ray than the workers are asked for. Close those workers, or what else "
                    "called ray.init, before."
                )
            return
        quiet = {"log_to_driver": False, "configure_logging": False, "namespace": prefix + uuid.uuid4().hex}
        begun: Future[BaseException | None] = Future()
        Thread(target=self._begin, args=(ray, quiet, begun), daemon=True).start()
        error = begun.result()
        if error is not None:
            raise WorkerError(f"Ray could not be started or reached ({self.address or 'on this machine'}): {error}") from error
        _speak()

    def _begin(self, ray: Any, quiet: Mapping[str, Any], begun: "Future[BaseException | None]") -> None:
        """In a thread that stays while Ray is there, whose processes end with it (Linux, PR_SET_PDEATHSIG)."""
        try:
            if self.address is None:
                make_token()
                self._start_here(ray, quiet)
            else:
                package = str(Path(__file__).resolve().parents[1])
                ray.init(address=self.address, runtime_env={"py_modules": [package]}, **quiet)
        except (ray.exceptions.RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
            begun.set_result(error)
            return
        with guarded() if self.address is None else nullcontext():
            begun.set_result(None)
            while ray.is_initialized():
                time.sleep(1)

    def _start_here(self, ray: Any, quiet: Mapping[str, Any]) -> None:
        """Its processes end with this one, however that ends."""
        searched = [PACK, *filter(None, [os.environ.get("PYTHONPATH")])]
        with during("PYTHONPATH", os.pathsep.join(map(str, searched))):
            ray.init(
                address="local",
                num_cpus=0 if self.gpus else self.count,
                num_gpus=None if self.gpus else 0,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _system_config=dict(SETTINGS),
                **quiet,
            )

    def _places(self, ray: Any, layout: Layout) -> list["_Place"]:
        """Of each rank, reserved."""
        from ray.util import placement_group

        groups = [placement_group([self._each] * layout.ulysses, strategy="STRICT_PACK") for _ in range(layout.cfg)]
        places = [_Place(group, index) for group in groups for index in range(layout.ulysses)]
        if not all(group.wait(PLACED_SECONDS) for group in groups):
            for place in places:
                place.free()
            kind, there = next(iter(self._each)), ray.cluster_resources()
            raise RequestError(
                f"The layout {layout.text()} asks for {layout.ranks} {kind}s, {layout.ulysses} on one machine, and of "
                f"{int(there.get(kind, 0))} there are {int(ray.available_resources().get(kind, 0))} free. Use a smaller "
                "layout, or close the workers that have them."
            )
        return places

    def _actor(self, ray: Any, place: "_Place") -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        name = uuid.uuid4().hex
        self._names.add(name)
        options = {
            "name": name,
            "num_cpus": self._each.get("CPU", 0),
            "num_gpus": self._each.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(place.group, placement_group_bundle_index=place.index),
        }
        return ray.remote(concurrency_groups={"control": 1})(_Host).options(**options).remote(self._threads)


@dataclass(frozen=True)
class _Place:
    group: Any
    index: int

    def free(self) -> None:
        from ray.util import remove_placement_group

        remove_placement_group(self.group)


class _Host(RankHost):
    """The actor."""

    def __init__(self, threads: int) -> None:
        _speak()
        super().__init__(threads)

    def meeting(self) -> str:
        """A place on this machine where ranks can meet."""
        from ray.util import get_node_ip_address

        with socket.create_server(("", 0)) as free:
            return f"tcp://{get_node_ip_address()}:{free.getsockname()[1]}"


def _speak() -> None:
    """This process and Ray's others understand each other's tensors and mappings."""
    from ray.util import register_serializer

    register_serializer(torch.Tensor, serializer=written, deserializer=read)
    register_serializer(MappingProxyType, serializer=dict, deserializer=MappingProxyType)


class RayRank:
    """As `Rank`."""

    def __init__(self, ray: Any, actor: Any, place: _Place, begin: tuple[Entry, Layout, int, str]) -> None:
        """begin: what `RankHost.become` is given."""
        self._ray, self._actor, self._place, self._begin = ray, actor, place, begin
        self._where: Where | None = None

    @property
    def name(self) -> str:
        _, layout, rank, _ = self._begin
        name = f"rank {rank} of {layout.ranks}" if layout.ranks > 1 else "the worker"
        return name if self._where is None else f"{name} ({self._where.machine}, process {self._where.process})"

    def begin(self) -> "Future[Where]":
        return self._answer(self._actor.become.remote(*self._begin), "it was started", self._stand)

    def _stand(self, where: Where) -> None:
        self._where = where

    def ask(self, number: int, method: str, given: Sequence[object]) -> "Future[Any]":
        return self._answer(self._actor.answer.remote(number, method, given), f"it was asked to {method}")

    def stop(self, number: int) -> None:
        self._actor.stop.options(concurrency_group="control").remote(number)

    def end(self) -> None:
        _, _, _, meeting = self._begin
        if meeting.startswith("file:"):
            shutil.rmtree(Path(urlsplit(meeting).path).parent, ignore_errors=True)
        if self._ray.is_initialized():
            self._ray.kill(self._actor)
            self._place.free()

    def _answer(self, reference: Any, doing: str, then: Callable[[Any], None] = lambda answer: None) -> "Future[Any]":
        answer: Future[Any] = Future()

        def settle(done: "Future[Any]") -> None:
            error = done.exception()
            if error is None:
                then(done.result())
                answer.set_result(done.result())
            else:
                answer.set_exception(self._told(error, doing))

        reference.future().add_done_callback(settle)
        return answer

    def _told(self, error: BaseException, doing: str) -> FastVideoError:
        cause = getattr(error, "cause", None)
        if isinstance(cause, FastVideoError):
            return cause
        gone = not isinstance(error, self._ray.exceptions.RayTaskError)
        what = f"is gone ({str(error).splitlines()[0]})" if gone else f"failed with {type(cause).__name__}: {cause}"
        told = WorkerError(f"{self.name[:1].upper()}{self.name[1:]} {what}, while {doing}. The next run starts new ranks.")
        told.__cause__ = error
        return told


def _ray() -> Any:
    """Ray reads its settings as it is imported. Who set them otherwise, knew why."""
    imported = "ray" in sys.modules
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray

        if imported and not ray.is_initialized():
            import_module("ray._raylet").Config.initialize("")  # as ray.init does, where a token is its own default (Ray 2.60)
    except ImportError as error:
        raise RequestError(
            "Workers are processes of Ray, which is not installed. Install it: pip install fastvideo-nodes[cluster] "
            '(or pip install "ray>=2.54" with the Python that runs this).'
        ) from error
    return ray
