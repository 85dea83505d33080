"""Generations of the demo model by workers, and what becomes of these."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import psutil
import pytest
import torch

from fastvideo_core import Conditioning, Generation, GuidanceSettings, Layout, SamplingRequest, VideoSize, WanModel, load_demo
from fastvideo_core.parallel.ray_ranks import RayRank

TWO = Layout(cfg=2)
STEPS = 6
HANG_SECONDS = 45.0


@cache
def demo() -> WanModel:
    """Two experts in bfloat16: in float32 each process chooses by its own clock how linear layers are computed on the CPU."""
    shipped = load_demo("two experts")
    folder = shipped.files["high_noise"].path.parent
    names = {"transformer": "wan_high_noise", "low_noise_transformer": "wan_low_noise", "vae": "wan_vae", "text_encoder": "umt5"}
    files = {part: folder / f"demo_{name}.safetensors" for part, name in names.items()}
    model = WanModel.from_files(**files, dtype=torch.bfloat16, vae_dtype=torch.float32)
    return replace(model, boundary=shipped.boundary, ratio_tables=shipped.ratio_tables)


@cache
def size() -> VideoSize:
    return demo().video_size(width=48, height=32, frames=5)


@cache
def conditioning(prompt: str = "a red circle moving left") -> Conditioning:
    return demo().condition(prompt, "blurry", size())


def request(seed: int = 1, steps: int = STEPS, **guidance: Any) -> SamplingRequest:
    """Half of the steps are each expert's."""
    settings = GuidanceSettings(**guidance)
    return SamplingRequest(steps=steps, shift=5.0, guidance_scale=3.0, boundary=0.875, seed=seed, guidance=settings)


def made(model: WanModel, asked: SamplingRequest | None = None, **options: Any) -> Generation:
    generation = model.generate(asked or request(), conditioning(), size(), **options)
    assert len(list(generation)) == STEPS
    return generation


@contextmanager
def killed_when(method: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The process of a rank of two is killed once, just after it was asked for a method; "start": as it begins. Gives
    when."""
    ask, begin, killed, before = RayRank.ask, RayRank.begin, list[float](), starting()

    def asking(self: RayRank, number: int, asked: str, given: Sequence[object]) -> Any:
        answer = ask(self, number, asked, given)
        if asked == method and self.name.startswith(f"rank {rank} ") and not killed:
            kill(killed, process_of(self.name))
        return answer

    def beginning(self: RayRank) -> Any:
        begun = begin(self)
        if method == "start" and self.name.startswith(f"rank {rank} ") and not killed:
            kill(killed, first(lambda: [each for each in starting() if each not in before]))
        return begun

    with monkeypatch.context() as patch:
        patch.setattr(RayRank, "ask", asking)
        patch.setattr(RayRank, "begin", beginning)
        yield killed
    assert killed


def kill(killed: list[float], process: int) -> None:
    killed.append(time.monotonic())
    os.kill(process, signal.SIGKILL)


def process_of(name: str) -> int:
    return int(name.split()[-1].rstrip(")"))


def first(find: Callable[[], list[int]]) -> int:
    """Of what is about to be there."""
    while not (found := find()):
        os.sched_yield()
    return found[0]


def starting() -> list[int]:
    """Ray's processes that are becoming a rank."""
    return [each.pid for each in family() if _name(each).startswith("ray::_Host")]


def _name(process: psutil.Process) -> str:
    """None of one that has ended meanwhile."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def assert_told_in_time(since: float, what: str) -> None:
    """Somebody waits for an error. It takes parts of a second, and shall take 10 s at most on a machine that has nothing else to
    do; the limit is what would be a hang on any."""
    seconds = time.monotonic() - since
    print(f"{what}: told after {seconds:.2f} s")
    assert seconds < HANG_SECONDS


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run, after their end had all the time that a slow machine needs. It takes seconds."""
    started = time.monotonic()
    _, left = psutil.wait_procs([each for each in processes if runs(each)], 60)
    print(f"{len(processes)} processes: the last one was gone after {time.monotonic() - started:.1f} s")
    return [each for each in left if runs(each)]


def runs(process: psutil.Process) -> bool:
    """A process that has ended may stay in the list of a container's processes, where nobody asks how it ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def family(process: int | None = None) -> list[psutil.Process]:
    """What a process started, and what that started."""
    return psutil.Process(process).children(recursive=True)
