"""The Wan checkpoints as data, each figure with its source.

Sources: [1] Wan-Video/Wan2.1 wan/configs/*.py and generate.py, [2] Wan-Video/Wan2.2 wan/configs/*.py,
[3] the model cards' diffusers examples, [4] config.json of the checkpoints' transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import RequestError


@dataclass(frozen=True, kw_only=True)
class WanVariant:
    """One checkpoint family.

    shift, steps, guidance_scale, low_noise_guidance_scale, boundary: how its authors sample it.
    in_channels: what the patch embedding reads; 36 = 16 noise + 4 mask + 16 image.
    spatial: the VAE's compression in height and width (4 in time for all).
    dim, layers: of the transformer, to recognise it by.
    """

    name: str
    title: str
    in_channels: int
    latent_channels: int
    dim: int
    layers: int
    shift: float
    steps: int
    guidance_scale: float
    fps: int
    width: int
    height: int
    frames: int
    low_noise_guidance_scale: float | None = None
    boundary: float | None = None
    spatial: int = 8
    image_tokens: int = 0  # CLIP tokens that the network reads: 257 per image
    first_frame: bool = False  # takes a given first frame as latents with timestep 0

    @property
    def two_experts(self) -> bool:
        return self.boundary is not None


_ROWS = (
    WanVariant(  # [1] README: "--sample_shift 8 --sample_guide_scale 6" for the 1.3B
        name="wan2.1_t2v_1.3B", title="Wan 2.1 T2V 1.3B", in_channels=16, latent_channels=16, dim=1536, layers=30,
        shift=8.0, steps=50, guidance_scale=6.0, fps=16, width=832, height=480, frames=81,
    ),
    WanVariant(  # [1] generate.py: shift 5, 50 steps, guidance 5
        name="wan2.1_t2v_14B", title="Wan 2.1 T2V 14B", in_channels=16,
        shift=5.0, steps=50, guidance_scale=5.0, fps=16, width=1280, height=720, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [1] generate.py: shift 3 at 832 x 480, 40 steps
        name="wan2.1_i2v_480p_14B", title="Wan 2.1 I2V 14B 480P", in_channels=36, image_tokens=257,
        shift=3.0, steps=40, guidance_scale=5.0, fps=16, width=832, height=480, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [1] generate.py: shift 5, 40 steps
        name="wan2.1_i2v_720p_14B", title="Wan 2.1 I2V 14B 720P", in_channels=36, image_tokens=257,
        shift=5.0, steps=40, guidance_scale=5.0, fps=16, width=1280, height=720, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [1] generate.py: shift 16; first_last_frame2video.py: guidance 5.5
        name="wan2.1_flf2v_14B", title="Wan 2.1 FLF2V 14B", in_channels=36, image_tokens=514,
        shift=16.0, steps=50, guidance_scale=5.5, fps=16, width=1280, height=720, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [2] wan_t2v_A14B.py; its guidance tuple is (low noise, high noise)
        name="wan2.2_t2v_A14B", title="Wan 2.2 T2V A14B", in_channels=16,
        shift=12.0, steps=40, guidance_scale=4.0, low_noise_guidance_scale=3.0, boundary=0.875,
        fps=16, width=1280, height=720, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [2] wan_i2v_A14B.py
        name="wan2.2_i2v_A14B", title="Wan 2.2 I2V A14B", in_channels=36,
        shift=5.0, steps=40, guidance_scale=3.5, low_noise_guidance_scale=3.5, boundary=0.900,
        fps=16, width=1280, height=720, frames=81,
        latent_channels=16, dim=5120, layers=40,
    ),
    WanVariant(  # [2] wan_ti2v_5B.py; its VAE compresses 16 x 16 x 4 into 48 channels
        name="wan2.2_ti2v_5B", title="Wan 2.2 TI2V 5B", in_channels=48, latent_channels=48, dim=3072, layers=30,
        shift=5.0, steps=50, guidance_scale=5.0, fps=24, width=1280, height=704, frames=121,
        spatial=16, first_frame=True,
    ),
)  # fmt: skip

VARIANTS: MappingProxyType[str, WanVariant] = MappingProxyType({row.name: row for row in _ROWS})


def variant(name: str) -> WanVariant:
    """The row of that name."""
    if name not in VARIANTS:
        raise RequestError(f"Wan variant {name!r} is unknown. Known: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def recognise(
    *, in_channels: int, latent_channels: int, dim: int, layers: int, image_tokens: int, two_experts: bool
) -> Sequence[WanVariant]:
    """The rows that a network of these measures may be: several where only resolution or training differ, none for a
    network that is not one of the published ones (a fine-tune of another size, a demo model)."""
    measures = (in_channels, latent_channels, dim, layers, image_tokens, two_experts)
    return [
        row
        for row in VARIANTS.values()
        if measures == (row.in_channels, row.latent_channels, row.dim, row.layers, row.image_tokens, row.two_experts)
    ]
