"""What a workflow of a published checkpoint loads."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvideo_core import Recipe, recognised
from fastvideo_core.wan import WanVariant
from tools.workflows import models
from tools.workflows.canvas import Model
from tools.workflows.columns import VideoSize

SMALL = (832, 480)


@dataclass(frozen=True)
class WanFiles:
    """transformers: the high-noise expert first where there are two. loras: of few steps, one each; none in a run as Wan's
    authors sample it. base_first: whether the first phase is without them."""

    variant: WanVariant
    transformers: Sequence[Model]
    loras: Sequence[Model] = ()
    base_first: bool = False

    @property
    def vae(self) -> Model:
        return models.VAE_2_2 if self.variant.latent_channels == 48 else models.VAE_2_1

    @property
    def clip_vision(self) -> Model | None:
        return models.CLIP_VISION if self.variant.image_tokens else None

    @property
    def all(self) -> list[Model]:
        files = [*self.transformers, *self.loras, models.UMT5, self.vae]
        return files if self.clip_vision is None else [*files, self.clip_vision]

    @property
    def recipe(self) -> Recipe:
        """What FastVideo Recipe recognises by the names of the LoRAs."""
        names = [lora.name for lora in self.loras]
        guesses = recognised(names, experts=len(names), networks=[self.variant.name], with_base=self.base_first)
        return guesses[0].recipe

    @property
    def size(self) -> VideoSize:
        """As Wan's authors make it; in few steps, which are for a quick look, 480p."""
        if self.loras:
            return VideoSize(*SMALL, self.variant.frames)
        return VideoSize(self.variant.width, self.variant.height, self.variant.frames)
