"""Two generations of the same prompt and seed, side by side: what one of them saves, and what it changes."""

import time
from dataclasses import dataclass

from torch import Tensor

from .attention import AttentionSettings
from .attention.sparse import SparseSchedule
from .conditioning import Conditioning
from .quality import Comparison, compare
from .report import RunReport
from .request import SamplingRequest, VideoSize
from .wan.generation import NewCache
from .wan.model import WanModel


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One generation. latents: (1, C, T, H, W) normalised; frames: (F, 3, height, width) in 0..1, both float32 on the CPU;
    seconds: of sampling, until the device is done with it; decode_seconds: of the VAE."""

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
) -> Measured:
    """Runs a generation to its end and decodes it.

    Raises:
        As `WanModel.generate` and its steps.
    """
    generation = model.generate(request, conditioning, size, cache, attention, sparse)
    started = time.perf_counter()
    for _ in generation:
        pass
    latents = generation.latents.cpu()  # waits for the device
    sampled = time.perf_counter()
    frames = model.decode(latents)
    return Measured(
        latents=latents,
        frames=frames[0].transpose(0, 1).contiguous(),
        report=generation.report(),
        seconds=sampled - started,
        decode_seconds=time.perf_counter() - sampled,
    )


def against(dense: Measured, accelerated: Measured, *, perceptual: bool = False) -> Comparison:
    """How far the accelerated video is from the dense one, frame by frame. perceptual: measure LPIPS too.

    Raises:
        RequestError, LoadError: as `fastvideo_core.quality.compare`.
    """
    return compare(dense.frames, accelerated.frames, perceptual=perceptual)
