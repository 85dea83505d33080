"""Workers in a Ray cluster of two nodes, both on this machine: found by its address, and one of its nodes is frozen."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from sampling import run_ksampler
from tiny_wan import metadata, random_weights
from worker_cases import assert_told_in_time, family, process_of
from worker_models import here, on_workers, ranks_of, workers_of

from fastvideo_core import WorkerError
from fastvideo_core.parallel.environment import during, make_token
from fastvideo_core.parallel.ray_ranks import SETTINGS

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """The sockets in it have names of 107 bytes at most, which pytest's own folders may leave no room for."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nodes(short_folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The cluster's address, and its second node, which alone has CPUs: as `ray start` makes them, with the tests' token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    head = ["--head", f"--port={address.partition(':')[2]}", "--num-cpus=0", "--include-dashboard=false",
            f"--temp-dir={short_folder}", f"--system-config={json.dumps(dict(SETTINGS))}"]  # fmt: skip
    with during("RAY_AUTH_MODE", "token"):
        make_token()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in (head, [f"--address={address}", "--num-cpus=2"]):
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, "--num-gpus=0", "--block"]
            started.append(start(command, short_folder / f"node{len(started)}.log"))
        yield address, psutil.Process(started[1].pid)
    finally:
        for node in started:
            for process in family(node.pid):
                with suppress(psutil.NoSuchProcess):  # it may have ended with another one
                    process.kill()
            node.kill()
            node.wait()


def start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """One that runs: it says so."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("wb") as file:
        node = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        time.sleep(0.1)
    return node


@pytest.mark.usefixtures("direct")
def test_a_model_works_there_until_the_node_is_frozen(comfy: Any, nodes: tuple[str, psutil.Process]) -> None:
    """As a machine whose power is cut: no connection is closed, nothing answers."""
    address, second = nodes
    save_file(random_weights("t2v", 0), comfy.model_folder("diffusion_models") / "heads_0.safetensors", metadata(heads=4))
    workers = workers_of(comfy, 1, 2, place="a Ray cluster", address=address)
    try:
        model = on_workers(comfy, workers, "heads_0")
        assert torch.equal(run_ksampler(model, steps=2), run_ksampler(here(comfy), steps=2))
        processes = second.children(recursive=True)
        assert {process_of(name) for name in ranks_of(workers)} <= {process.pid for process in processes}
        for process in processes:
            process.suspend()
        since = time.monotonic()
        with pytest.raises(WorkerError, match=r"^Rank [01] of 2 \(.* is gone .*, while it was asked to predict\."):
            run_ksampler(model, steps=2)
        assert_told_in_time(since, "a frozen node")
    finally:
        workers.close()
