"""What the plan for one GPU is made for: checkpoints at the sizes that people sample them in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fastvideo_core import Conditioning, SamplingRequest, VideoSize
from fastvideo_core.attention.sparse import SLASettings, VSASettings
from fastvideo_core.wan.variants import VARIANTS, WanVariant
from tools.simulated.checkpoints import IMAGE_DIM, TEXT_DIM, TrueSize

from .contenders import NEGATIVE_PROMPT_TOKENS, PROMPT_TOKENS


@dataclass(frozen=True, kw_only=True)
class Video:
    """variant: name of its row; vsa: the sparsity that FastWan's checkpoints of this size were trained with."""

    title: str
    variant: str
    width: int
    height: int
    frames: int = 81
    vsa: float = 0.9

    @property
    def row(self) -> WanVariant:
        return VARIANTS[self.variant]

    @property
    def size(self) -> TrueSize:
        size = VideoSize(width=self.width, height=self.height, frames=self.frames, spatial=self.row.spatial, temporal=4)
        return replace(TrueSize.of(self.row), shape=size.latent_shape(self.row.latent_channels))

    @property
    def request(self) -> SamplingRequest:
        """As its authors sample it."""
        row = self.row
        return SamplingRequest(
            steps=row.steps, shift=row.shift, guidance_scale=row.guidance_scale, boundary=row.boundary,
            low_noise_guidance_scale=row.low_noise_guidance_scale,
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        _, _, frames, height, width = self.size.shape
        return frames * (height // 2) * (width // 2)

    def conditioning(self) -> Conditioning:
        """Of random prompts and an image, on the CPU, with values: TI2V makes its video of the text alone."""
        import torch

        size = self.size
        texts = [torch.zeros(1, 512, TEXT_DIM, dtype=torch.bfloat16) for _ in range(2)]
        for text, rows in zip(texts, (PROMPT_TOKENS, NEGATIVE_PROMPT_TOKENS), strict=True):
            text[:, :rows] = 1
        read, written = size.channels
        return Conditioning(
            positive=texts[0],
            negative=texts[1],
            image=torch.zeros(1, read - written, *size.shape[2:]) if read > written else None,
            image_tokens=torch.zeros(1, size.image_tokens, IMAGE_DIM) if size.image_tokens else None,
        )


def trained(video: Video) -> Mapping[str, VSASettings | SLASettings]:
    """Sparse attention as the published checkpoints were trained with it."""
    return {"VSA": VSASettings(sparsity=video.vsa), "SLA": SLASettings(sparsity=0.9)}


def _both(title: str, *variants: str) -> dict[str, Video]:
    """At 480p and at 720p."""
    sizes = ((832, 480), (1280, 720))
    names = zip((variants * 2)[:2], sizes, strict=True)
    return {
        f"{title}, {height}p": Video(title=title, variant=name, width=width, height=height) for name, (width, height) in names
    }


VIDEOS: Mapping[str, Video] = MappingProxyType({
    "2.1 T2V 1.3B, 480p": Video(title="2.1 T2V 1.3B", variant="wan2.1_t2v_1.3B", width=832, height=480, vsa=0.8),
    **_both("2.1 T2V 14B", "wan2.1_t2v_14B"),
    **_both("2.1 I2V 14B", "wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B"),
    **_both("2.2 T2V A14B", "wan2.2_t2v_A14B"),
    **_both("2.2 I2V A14B", "wan2.2_i2v_A14B"),
    "2.2 TI2V 5B, 704p": Video(
        title="2.2 TI2V 5B", variant="wan2.2_ti2v_5B", width=1280, height=704, frames=121, vsa=0.8
    ),
})  # fmt: skip
"""81 frames, of 5B 121."""
