"""Many prompts through one server whose model is in workers: what all its processes hold afterwards, against before."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fastvideo_core.parallel.environment import during
from tools.comfy_server import PACK, ComfyServer

MODEL = "demo_wan_t2v.safetensors"
GIVEN_BACK = "MALLOC_MMAP_THRESHOLD_", str(128 * 1024)
"""What is freed in pieces of this many bytes goes back to the system at once. It is glibc's own value at first, which it raises
with what is freed (mallopt(3)): each rank's heap then moves by tens of MB, up and down, that nobody holds."""
STEPS = 2
PROMPT_BYTES = STEPS * 2 * 512 * 128 * 4
"""Of embedded texts that a prompt gives to each rank: in each call, those of both branches."""
WARM = 10
"""Prompts before the first look: what each kind of work needs once is there then."""


@dataclass(frozen=True)
class Held:
    """By a server and all that it started. own: bytes of each process by its id, without files, and what several have counts
    once; shared: bytes of files in /dev/shm, which is where Ray puts what processes give each other."""

    threads: int
    handles: int
    own: Mapping[int, int]
    shared: int

    @property
    def processes(self) -> int:
        return len(self.own)

    @property
    def memory(self) -> int:
        return sum(self.own.values())


@dataclass(frozen=True, kw_only=True)
class Growth:
    prompts: int
    before: Held
    after: Held

    def most(self) -> int:
        """Bytes, of the process that grew the most."""
        return max(self.after.own[process] - before for process, before in self.before.own.items())


def held(server: ComfyServer) -> Held:
    processes = family(server)
    return Held(
        threads=sum(process.num_threads() for process in processes),
        handles=sum(process.num_fds() for process in processes),
        own={process.pid: _own(process) for process in processes},
        shared=sum({file.st_ino: 512 * file.st_blocks for process in processes for file in _shared(process)}.values()),
    )


def _own(process: psutil.Process) -> int:
    found = re.search(r"^Pss_Anon: +(\d+) kB$", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found, "Linux tells it since 5.9"
    return 1024 * int(found[1])


def _shared(process: psutil.Process) -> Iterator[os.stat_result]:
    """Files without a name, too."""
    for handle in Path(f"/proc/{process.pid}/fd").iterdir():
        if str(handle.readlink()).startswith("/dev/shm/"):
            yield handle.stat()


def family(server: ComfyServer) -> list[psutil.Process]:
    """The server's process, and all that it started."""
    (process,) = (child for child in psutil.Process().children() if str(server.port) in child.cmdline())
    return [process, *process.children(recursive=True)]


@contextmanager
def server_with_model(tree: Path, base: Path) -> Iterator[ComfyServer]:
    """The demo's network is in the folder that FastVideo Load Model On Workers lists."""
    server = ComfyServer(tree, base)
    shutil.copy(PACK / "models" / "demo" / MODEL, server.model_folder("diffusion_models"))
    with during(*GIVEN_BACK), server:
        yield server


def prompt(seed: int, model: dict[str, Any] | None = None, steps: int = STEPS) -> dict[str, Any]:
    """Core's KSampler, node "sampler", on the demo's network in two workers that share the tokens, or on the MODEL of a node."""
    settings = {"seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["shifted", 0], "positive": ["texts", 0], "negative": ["texts", 1], "latent_image": ["empty", 0]}
    layout = {"layout": "cfg x ulysses", "layout.cfg": 1, "layout.ulysses": 2}
    return {
        "demo": node("FastVideoLoadDemoWan", model="t2v", lora_strength=0.0),
        "workers": node("FastVideoWorkers", count=2, device="CPU", place="this machine", **layout),
        "model": model or node("FastVideoLoadModelOnWorkers", workers=["workers", 0], model_name=MODEL, weight_dtype="default"),
        "shifted": node("ModelSamplingSD3", model=["model", 0], shift=5.0),
        "texts": node("FastVideoTextEncode", positive="a red circle moving right", negative="", clip=["demo", 2]),
        "empty": node("EmptyHunyuanLatentVideo", width=32, height=32, length=5, batch_size=1),
        "sampler": node("KSampler", **links, **settings),
        "saved": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents"),
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def grown(server: ComfyServer, prompts: int, warm: int = WARM) -> Growth:
    """No two of the prompts are alike, for ComfyUI would keep the result."""
    seeds = iter(range(warm + prompts))

    def run(count: int) -> Held:
        for _ in range(count):
            server.wait(server.post(prompt(next(seeds))))
        return held(server)

    return Growth(prompts=prompts, before=run(warm), after=run(prompts))


def run(prompts: int) -> Growth:
    tree = os.environ.get("COMFYUI_PATH")
    if not tree:
        raise SystemExit("This needs ComfyUI: use `make bench`, or set COMFYUI_PATH to a ComfyUI folder.")
    with tempfile.TemporaryDirectory() as folder, server_with_model(Path(tree).resolve(), Path(folder)) as server:
        return grown(server, prompts)
