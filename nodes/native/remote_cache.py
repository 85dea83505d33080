"""A step cache on a MODEL whose network is in workers: decided and applied there, told of here."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fastvideo_core import Branch, Phase
from fastvideo_core.step_cache import BlockwiseSession

from .cache_run import CacheRun, Opened
from .call import lent
from .remote_network import SESSION, RemoteModel


class RemoteCacheRun(CacheRun):
    """As `CacheRun`; what the cache does in the blocks, it does in the workers, each with its own rows."""

    def __init__(self, opened: Opened, blocks: int, level: Callable[[Tensor], float], remote: RemoteModel) -> None:
        super().__init__(opened, blocks, level)
        self.remote = remote

    def _open(self, phase: Phase) -> None:
        super()._open(phase)
        if self._session is not None:
            session = self._session = RemoteSession(self._session, self.remote)
            self._stack.callback(session.close)

    def _reach_blocks(self, options: dict[str, Any], held_bytes: int) -> None:
        """There are none here, and what is kept is kept elsewhere."""

    @contextmanager
    def _at_work(self, options: dict[str, Any]) -> Iterator[None]:
        assert isinstance(self._session, RemoteSession)
        with lent(options, **{SESSION: self._session.announced()}):
            yield


class RemoteSession(BlockwiseSession):
    """A session of the workers. here: a fresh one, which is told at the end what those did."""

    def __init__(self, here: BlockwiseSession, remote: RemoteModel) -> None:
        super().__init__()
        self.here, self.remote, self.name = here, remote, uuid.uuid4().hex
        self._next: tuple[int, tuple[Branch, ...]] | None = None
        self._forgotten: set[Branch] = set()

    @property
    def tokens_held(self) -> int:
        return self.here.tokens_held

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        self.remote.open(self.name, self.here)
        self._next = step, branches

    def announced(self) -> dict[str, Any]:
        """The next call's step, as `RankNetworks.predict` asks for it."""
        assert self._next is not None
        (step, _), self._next = self._next, None
        forgotten, self._forgotten = tuple(self._forgotten), set()
        return {"cache": self.name, "step": step, "forget": forgotten}

    def withdraw(self) -> None:
        self._next = None

    def block(self, index: int, count: int, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        raise AssertionError("No block of this network is here.")

    def forget(self, branches: Iterable[Branch]) -> None:
        self._forgotten.update(branches)

    def close(self) -> None:
        """Of ranks that are gone nothing is told. The memory is that of the one which holds most."""
        counts = self.remote.close(self.name)
        if counts:
            self.here.take(counts[0]._replace(peak_bytes=max(each.peak_bytes for each in counts)))
