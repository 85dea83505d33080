"""Many runs in one server."""

import psutil
from demo_prompts import demo_prompt

from tools.comfy_server import ComfyServer

RUNS = 20
ALLOWED_GROWTH = 150 * 2**20  # bytes; one run of this size holds about 1 MB, and ComfyUI keeps the last outputs


def test_twenty_runs_keep_no_memory(comfy_server: ComfyServer) -> None:
    process = _process(comfy_server)
    _runs(comfy_server, range(5))
    before = process.memory_info().rss
    _runs(comfy_server, range(5, 5 + RUNS))
    assert process.memory_info().rss - before < ALLOWED_GROWTH


def _runs(server: ComfyServer, seeds: range) -> None:
    for seed in seeds:
        server.wait(server.post(demo_prompt("demo_t2v", steps=2, width=32, height=32, length=5, seed=seed)))


def _process(server: ComfyServer) -> psutil.Process:
    (process,) = (child for child in psutil.Process().children() if str(server.port) in child.cmdline())
    return process
