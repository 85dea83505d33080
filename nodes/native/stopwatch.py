"""How long a run takes, and how much memory."""

import time

import psutil
import torch


class Stopwatch:
    """Times and peak memory of one run. On the CPU the process's memory is looked at after every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = self._last = time.perf_counter()
        self.laps: list[float] = []
        self._process = psutil.Process()
        self._peak = self._process.memory_info().rss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        """The first expert's weights are loaded; the first step begins."""
        self.started = self._last = time.perf_counter()

    def lap(self) -> None:
        """A step is done; on a GPU its work is at least queued (see `fastvideo_core.denoise`)."""
        now = time.perf_counter()
        self.laps.append(now - self._last)
        self._last = now
        if self.device.type == "cpu":
            self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def seconds(self) -> float:
        """Since the first step began; a second expert is loaded within its first step."""
        return time.perf_counter() - self.started

    @property
    def peak_bytes(self) -> int | None:
        """Peak of allocated device memory, or of the process where the device is the CPU; None on other devices."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return self._peak if self.device.type == "cpu" else None
