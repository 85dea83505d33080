"""One generation of a `WanModel`, as an object that is iterated; afterwards it tells what ran."""

import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch

from ..conditioning import Conditioning
from ..generate import Step, generate, seeded_noise
from ..guidance import Guidance
from ..report import RunReport, phase_reports, ran_as
from ..request import SamplingRequest
from .denoiser import WanExperts, compute_dtype

if TYPE_CHECKING:
    from .model import WanModel


class Generation(Iterator[Step]):
    """`for step in generation`; then `latents` is the video and `report()` the account. Closing it early leaves no weights
    on the device.

    Args:
        latent_shape: (B, C, T, H, W).
    """

    def __init__(
        self, model: "WanModel", request: SamplingRequest, conditioning: Conditioning, latent_shape: tuple[int, ...]
    ) -> None:
        self.model = model
        self.request = request
        self.guidance = Guidance(request.plan(), request.guidance)
        self.latents = seeded_noise(latent_shape, request.seed, model.device)
        self.step_seconds: list[float] = []
        self._first = self._last = time.perf_counter()
        experts = WanExperts(model.transformers, conditioning, latent_shape, model.device, model.offload_device)
        self._steps = self._run(experts, conditioning)

    def _run(self, experts: WanExperts, conditioning: Conditioning) -> Generator[Step, None, None]:
        yield from generate(self.request, experts, conditioning, self.latents, self.guidance)

    def __next__(self) -> Step:
        if not self.step_seconds:
            self._first = time.perf_counter()
            if self.model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.model.device)
        step = next(self._steps)
        self.latents = step.latents
        self.step_seconds.append(step.seconds)
        self._last = time.perf_counter()
        return step

    def close(self) -> None:
        """Ends it before its last step."""
        self._steps.close()

    def report(self) -> RunReport:
        """What ran so far. Memory is counted on CUDA devices."""
        device = self.model.device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        mode, reason = ran_as(self.guidance)
        transformer = next(iter(self.model.transformers.values()))
        return RunReport(
            model=self.model.name,
            variant=self.model.title,
            solver=self.request.solver,
            sigmas=self.guidance.schedule.sigmas,
            guidance_mode=mode,
            guidance_reason=reason,
            phases=phase_reports(self.guidance),
            latent_shape=tuple(self.latents.shape),
            device=str(device),
            dtype=str(compute_dtype(transformer)).removeprefix("torch."),
            seed=self.request.seed,
            step_seconds=tuple(self.step_seconds),
            total_seconds=self._last - self._first,
            peak_memory_bytes=peak,
        )
