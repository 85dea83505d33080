"""What a workflow of a published checkpoint loads."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvideo_core.wan import WanVariant
from tools.workflows import models
from tools.workflows.canvas import Model
from tools.workflows.columns import VideoSize


@dataclass(frozen=True)
class WanFiles:
    """transformers: the high-noise expert first where there are two."""

    variant: WanVariant
    transformers: Sequence[Model]

    @property
    def vae(self) -> Model:
        return models.VAE_2_2 if self.variant.latent_channels == 48 else models.VAE_2_1

    @property
    def clip_vision(self) -> Model | None:
        return models.CLIP_VISION if self.variant.image_tokens else None

    @property
    def all(self) -> list[Model]:
        files = [*self.transformers, models.UMT5, self.vae]
        return files if self.clip_vision is None else [*files, self.clip_vision]

    @property
    def size(self) -> VideoSize:
        return VideoSize(self.variant.width, self.variant.height, self.variant.frames)
