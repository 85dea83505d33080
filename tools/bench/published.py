"""What others measured on one GPU, at sizes that are counted here too."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """video, card: keys of `VIDEOS` and `CARDS`. seconds: of all steps; branches: of guidance in each; with_: what else."""

    who: str
    video: str
    card: str
    steps: int
    branches: int
    seconds: float
    source: str
    with_: str = ""


_LIGHTX2V = "[LightX2V](https://github.com/ModelTC/LightX2V), 2025-12"
_TURBO = "[TurboDiffusion](https://github.com/thu-ml/TurboDiffusion)"
_FASTWAN = "[FastWan](https://hao-ai-lab.github.io/blogs/fastvideo_post_training)"


def _lightx2v(who: str, seconds: float) -> Measured:
    return Measured(
        who=who, video="2.1 I2V 14B, 480p", card="H100 SXM", steps=1, branches=2, seconds=seconds, source=_LIGHTX2V
    )  # fmt: skip


def _turbo(video: str, steps: int, seconds: float) -> Measured:
    return Measured(
        who="Wan's own code", video=video, card="RTX 5090", steps=steps, branches=2, seconds=seconds, source=_TURBO
    )  # fmt: skip


def _fastwan(video: str, who: str, steps: int, branches: int, seconds: float, with_: str = "") -> Measured:
    return Measured(
        who=who, video=video, card="H200 SXM", steps=steps, branches=branches, seconds=seconds, source=_FASTWAN, with_=with_
    )


PUBLISHED = (
    _lightx2v("LightX2V", 5.18),
    _lightx2v("SGLang", 6.13),
    _lightx2v("FastVideo", 7.35),
    _lightx2v("xDiT", 8.93),
    _lightx2v("diffusers", 9.77),
    _fastwan("2.1 T2V 14B, 720p", "FastVideo", 50, 2, 1746.5, "FlashAttention 2"),
    _fastwan("2.1 T2V 1.3B, 480p", "FastVideo", 50, 2, 95.21, "FlashAttention 2"),
    _fastwan("2.2 TI2V 5B, 704p", "FastVideo", 50, 2, 157.21, "FlashAttention 2"),
    _fastwan("2.1 T2V 14B, 720p", "FastVideo", 3, 1, 37.87, "3 steps, FlashAttention 3"),
    _fastwan("2.1 T2V 14B, 720p", "FastVideo", 3, 1, 29.5, "3 steps, FlashAttention 3, compiled"),
    _fastwan("2.1 T2V 1.3B, 480p", "FastVideo", 3, 1, 1.49, "3 steps, FlashAttention 3, compiled"),
    _fastwan("2.2 TI2V 5B, 704p", "FastVideo", 3, 1, 2.64, "3 steps, FlashAttention 3, compiled"),
    _turbo("2.1 T2V 1.3B, 480p", 50, 184),
    _turbo("2.1 T2V 14B, 480p", 50, 1676),
    _turbo("2.1 T2V 14B, 720p", 50, 4767),
    _turbo("2.2 I2V A14B, 720p", 40, 4549),
)
