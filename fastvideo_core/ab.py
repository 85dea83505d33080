"""Two generations of the same prompt and seed, side by side: what one of them saves, and what it changes."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .attention import AttentionSettings
from .attention.sparse import SparseSchedule
from .conditioning import Conditioning
from .generate import Step
from .quality import Comparison, compare
from .report import RunReport
from .request import SamplingRequest, VideoSize
from .wan.generation import Generation, NewCache
from .wan.model import WanModel


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One generation. latents: (1, C, T, H, W) normalised; frames: (F, 3, height, width) in 0..1, both float32 on the CPU;
    seconds: of sampling, all that was waited for; decode_seconds: of the VAE. `speed_up` of two reports says what one saves."""

    latents: Tensor
    frames: Tensor
    report: RunReport
    seconds: float
    decode_seconds: float


def measure(
    model: WanModel,
    conditioning: Conditioning,
    size: VideoSize,
    request: SamplingRequest,
    cache: NewCache | None = None,
    attention: AttentionSettings | None = None,
    sparse: SparseSchedule | None = None,
    each_step: Callable[[Step], None] | None = None,
) -> Measured:
    """Runs a generation to its end and decodes it. each_step: is told of each step done.

    Raises:
        As `WanModel.generate` and its steps.
    """
    generation = model.generate(request, conditioning, size, cache, attention, sparse)
    report, seconds = timed(generation, each_step=each_step)
    latents = generation.latents.cpu()
    started = time.perf_counter()
    frames = model.decode(latents)
    return Measured(
        latents=latents,
        frames=frames[0].transpose(0, 1).contiguous(),
        report=report,
        seconds=seconds,
        decode_seconds=time.perf_counter() - started,
    )


def timed(
    generation: Generation, steps: int | None = None, each_step: Callable[[Step], None] | None = None
) -> tuple[RunReport, float]:
    """Runs it, or its first `steps`, and then closes it. Returns its report, in which a step took as long as the device had work
    with it, and the seconds of all."""
    marks = [time.perf_counter()]
    for step in itertools.islice(generation, steps):
        float(step.latents.flatten()[0])  # waits for the device
        marks.append(time.perf_counter())
        if each_step is not None:
            each_step(step)
    generation.close()
    laps = tuple(after - before for before, after in itertools.pairwise(marks))
    return replace(generation.report(), step_seconds=laps), marks[-1] - marks[0]


def against(dense: Measured, accelerated: Measured, *, perceptual: bool = False) -> Comparison:
    """How far the accelerated video is from the dense one, frame by frame. perceptual: measure LPIPS too.

    Raises:
        RequestError, LoadError: as `fastvideo_core.quality.compare`.
    """
    return compare(dense.frames, accelerated.frames, perceptual=perceptual)
