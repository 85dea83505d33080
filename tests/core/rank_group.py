"""Real ranks for tests: processes of their own that wait for cases, and meet anew over gloo for each of them.

To import what they need takes longer than all that they do, so one process does it and is forked into them. They stay for many
tests; after a failure none of them is left.
"""

import copyreg
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fastvideo_core.parallel import Layout, joined


def frozen(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """Of settings, which cannot be sent as it is."""
    return MappingProxyType(mapping)


copyreg.pickle(MappingProxyType, lambda mapping: (frozen, (dict(mapping),)))


class RankGroup:
    """Up to `count` ranks, which have imported these modules. To be closed."""

    def __init__(self, folder: Path, modules: Sequence[str] = (), count: int = 4) -> None:
        self.folder, self.modules, self.count = folder, modules, count
        self._parent: subprocess.Popen[bytes] | None = None
        self._ranks: list[tuple[int, Connection]] = []
        self._meetings = 0

    def run(self, layout: Layout, case: Callable[..., Any], *given: Any, limit: float = 300) -> list[Any]:
        """`case(mesh, *given)` on each rank of the layout; what each of them returns.

        Args:
            case: a function of a module that lies beside this one.
            limit: seconds, after which no rank is left. Of a busy machine, that starts them first.
        """
        self._start()
        self._meetings += 1
        place = self.folder / f"meeting{self._meetings}"
        connections = [connection for _, connection in self._ranks[: layout.ranks]]
        for rank, connection in enumerate(connections):
            _send(connection, (layout, rank, place.as_uri(), case, given))
        try:
            return self._answers(connections, time.monotonic() + limit)
        except BaseException:
            self.close()
            raise

    def _answers(self, connections: list[Connection], end: float) -> list[Any]:
        answers: dict[int, Any] = {}
        while len(answers) < len(connections):
            waiting = [connection for rank, connection in enumerate(connections) if rank not in answers]
            for connection in wait(waiting, max(0.0, end - time.monotonic())) or _late(waiting):
                rank = connections.index(connection)
                good, answers[rank] = connection.recv()
                if not good:
                    raise AssertionError(f"rank {rank}:\n{answers[rank]}")
        return [answers[rank] for rank in range(len(connections))]

    @property
    def processes(self) -> list[int]:
        """Their ids, from their start to their end."""
        return [process for process, _ in self._ranks]

    def _start(self) -> None:
        if self._ranks:
            return
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), "OMP_NUM_THREADS": "1"}
        pipes = [Pipe() for _ in range(self.count)]
        theirs = [end.fileno() for _, end in pipes]
        command = [sys.executable, "-m", "rank_group", " ".join(map(str, theirs)), *self.modules]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=theirs, env=environment)
        for _, end in pipes:
            end.close()
        self._ranks = [(connection.recv(), connection) for connection, _ in pipes]

    def close(self) -> None:
        """Their parent ends with the last of them."""
        for process, connection in self._ranks:
            connection.close()
            with suppress(ProcessLookupError):  # it failed
                os.kill(process, signal.SIGKILL)
        self._ranks = []
        if self._parent is not None:
            self._parent.communicate()


def _late(waiting: list[Connection]) -> list[Connection]:
    raise AssertionError(f"{len(waiting)} ranks did not answer in time.")


def _answer(connection: Connection) -> None:
    layout, rank, place, case, given = connection.recv()
    try:
        with joined(layout, rank, place) as mesh:
            answer = True, case(mesh, *given)
    except Exception:
        _send(connection, (False, traceback.format_exc()))
        raise
    _send(connection, answer)


def _send(connection: Connection, message: object) -> None:
    """By value: as it is, torch would send where a tensor lies."""
    connection.send_bytes(pickle.dumps(message))


def _end_with_the_tests() -> None:
    """Also where they were killed."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    torch.set_num_threads(1)
    for module in sys.argv[2:]:
        import_module(module)
    connections = [Connection(int(each)) for each in sys.argv[1].split()]
    for connection in connections:
        if os.fork() == 0:
            _be_rank(connection, connections)
    for connection in connections:
        connection.close()
    with suppress(ChildProcessError):  # there is none any more
        while True:
            os.wait()


def _be_rank(own: Connection, connections: Sequence[Connection]) -> None:
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    for other in connections:
        if other is not own:
            other.close()  # it tells by its end that its rank is gone
    own.send(os.getpid())
    while True:
        _answer(own)


if __name__ == "__main__":
    main()
