"""Arguments of commands that may work in several processes, and who makes the videos then."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RequestError
from ..parallel import Layout
from ..wan.model import WanModel
from ..wan.on_workers import ModelOnWorkers
from ..wan.pooled import ModelPool
from ..wan.workers import Workers

AUTO = "auto"


def add_workers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers: processes of Ray (pip install fastvideo-nodes[cluster])")
    group.add_argument(
        "--workers", type=int, metavar="N",
        help="make N videos at a time, each in a worker of its own: N GPUs with --device cuda, otherwise N processes on the CPU",
    )  # fmt: skip
    group.add_argument(
        "--layout", metavar="CFGxULYSSES",
        help="make one video at a time on all workers: 2x4 gives each half of eight a branch of guidance, and four share its "
        "tokens; auto chooses by the network's heads",
    )  # fmt: skip
    group.add_argument(
        "--shard-weights", action="store_true",
        help="make one video at a time on all workers, of which each holds only a part of the weights: for a network that one "
        "worker has no room for; without --layout all of them share its tokens",
    )  # fmt: skip
    group.add_argument("--cluster", metavar="ADDRESS", help='the workers are in this Ray cluster: head:6379, or "auto"')


@contextmanager
def maker(given: argparse.Namespace, model: WanModel) -> Iterator[WanModel | ModelOnWorkers | ModelPool]:
    """What makes the videos of a model: the model itself without --workers.

    Raises:
        RequestError: the arguments contradict each other, or there are not so many workers.
    """
    if given.workers is None:
        if given.layout is not None or given.cluster is not None or given.shard_weights:
            raise RequestError("--layout, --shard-weights and --cluster are for workers: say how many with --workers.")
        yield model
        return
    count = {"gpus" if given.device.type == "cuda" else "workers": given.workers}
    layout = None if given.layout in (None, AUTO) else _layout(given.layout)
    of = Workers.local if given.cluster is None else lambda **asked: Workers.at(given.cluster, **asked)
    with of(**count, layout=layout) as workers:
        together = given.shard_weights or given.layout is not None
        yield workers.take(model, shard_weights=given.shard_weights) if together else workers.pool(model)


def _layout(text: str) -> Layout:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise RequestError(f"--layout is {text!r:.80}: write branches x ranks that share tokens, such as 2x4, or auto.")
    return Layout(cfg=int(found[1]), ulysses=int(found[2]))
