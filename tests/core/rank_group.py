"""Real ranks for tests: processes of their own that wait for cases, and meet anew over gloo for each of them.

Starting four takes longer than all that they do, so they stay for many tests; after a failure none of them is left.
"""

import copyreg
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
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
    """Up to `count` ranks. To be closed."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder, self.count = folder, count
        self._ranks: list[tuple[subprocess.Popen[bytes], Connection]] = []
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
    def alive(self) -> list[int]:
        """Ids of the processes that run."""
        return [process.pid for process, _ in self._ranks if process.poll() is None]

    def _start(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), "OMP_NUM_THREADS": "1"}
        while len(self._ranks) < self.count:
            ours, theirs = Pipe()
            command = [sys.executable, "-m", "rank_group", str(theirs.fileno())]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], env=environment)
            theirs.close()
            self._ranks.append((process, ours))

    def close(self) -> None:
        for process, connection in self._ranks:
            connection.close()
            process.kill()
            process.wait()
        self._ranks = []


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
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    torch.set_num_threads(1)
    with Connection(int(sys.argv[1])) as connection:
        while True:
            _answer(connection)


if __name__ == "__main__":
    main()
