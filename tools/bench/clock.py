"""What a run costs: its seconds, those of them inside the network, and its memory."""

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable

import psutil
import torch
from torch import nn

Event = Callable[[], float]
"""A moment, as a function that gives its time in seconds once the device has reached it."""


class ModuleClock:
    """Times every call of a module from the moment the device starts it to the moment it is done with it."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._moment = cuda_clock() if device.type == "cuda" else host_moment
        self._module = module
        self._moments: list[Event] = []

    def __enter__(self) -> "ModuleClock":
        def note(*_: object) -> None:
            self._moments.append(self._moment())

        self._hooks = [self._module.register_forward_pre_hook(note), self._module.register_forward_hook(note)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def calls(self) -> int:
        return len(self._moments) // 2

    @property
    def seconds(self) -> float:
        starts, ends = self._moments[::2], self._moments[1::2]
        return sum(end() - start() for start, end in zip(starts, ends, strict=True))


def host_moment() -> Event:
    now = time.perf_counter()
    return lambda: now


def cuda_clock() -> Callable[[], Event]:
    """Moments in the stream of the current CUDA device."""
    origin = torch.cuda.Event(enable_timing=True)
    origin.record()

    def moment() -> Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return lambda: origin.elapsed_time(event) / 1000

    return moment


def timed(run: Callable[[], object], network: nn.Module, device: torch.device) -> tuple[float, float]:
    """Seconds of a run, and seconds of it inside the network."""
    gc.collect()
    wait(device)
    with ModuleClock(network, device) as clock:
        seconds = seconds_of(run, device)
    return seconds, clock.seconds


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Of a run, on a device that has nothing else to do."""
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory held during a run above what was held before it: torch's own count on CUDA, resident memory else."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    give_free_memory_back()
    with ResidentPeak() as resident:
        run()
    return resident.peak - resident.before


def give_free_memory_back() -> None:
    """The C library keeps freed memory resident, which would hide the next run's; glibc can be told not to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class ResidentPeak:
    """Looks at this process's resident memory every two milliseconds."""

    def __enter__(self) -> "ResidentPeak":
        self._process, self._stop = psutil.Process(), threading.Event()
        self.before = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
