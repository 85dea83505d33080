"""A Wan checkpoint ready to work: prompt and images to conditioning, conditioning to latents, latents to frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..attention.experts import AttentionSettings
from ..attention.sparse import SparseSchedule
from ..checks import of_kind
from ..conditioning import Conditioning, GivenFrame, image_condition
from ..errors import RequestError
from ..generate import check_finite
from ..image_motion import amplified
from ..request import SamplingRequest, VideoSize
from ..state import GenerationState
from .compiled import CompileSettings
from .generation import Generation, NewCache
from .given_files import check_dtypes, check_optional, check_paths, device_of, path_of
from .given_images import check_motion, check_which, fitting
from .image_encoder import ImageEncoder
from .loading.transformer import load_transformer
from .parts import File, Transformers, check_parts, has_part, read_index, recognised
from .text_encoder import TextEncoder
from .vae import VideoVAE
from .variants import WanVariant
from .working import Work, Working, WorkingExperts

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True, kw_only=True)
class WanModel:
    """The networks of one checkpoint; it keeps nothing of a generation.

    transformers: by the names of experts: "single", or "high_noise" and "low_noise", or any that a request's phases ask for, all
        of one size of network. LoRAs and group offloading are applied to them, in this order:
        `apply_lora(model.transformers[expert], path)`, `group_offload(model.transformers[expert], device, 1)`.
    image_encoder: for Wan 2.1 I2V and FLF2V.
    variant: the published checkpoint that this is; None for another size, or where several have this size.
    boundary: noise level at which the low-noise expert takes over, for `SamplingRequest`.
    first_frame: whether it takes a first image as clean latents (Wan2.2 TI2V-5B).
    device, offload_device: a network is on the first while it works, on the second while it does not.
    ratio_tables: folders with tables that MagCache's calibration measured on it. files: what the transformers were read from.
    """

    name: str
    transformers: Mapping[str, "WanTransformer3DModel"]
    vae: VideoVAE
    text_encoder: TextEncoder
    image_encoder: ImageEncoder | None = None
    variant: WanVariant | None = None
    boundary: float | None = None
    first_frame: bool = False
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    offload_device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    ratio_tables: tuple[Path, ...] = ()
    files: Mapping[str, File] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_parts(self.transformers, self.vae, self.text_encoder, self.image_encoder)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> "WanModel":
        """From a diffusers repository on disk: a folder with model_index.json.

        Args:
            dtype: of the transformers and both encoders; as stored when None. The VAE stays as stored.

        Raises:
            LoadError: a part is missing or broken, or it is no text- or image-to-video repository of Wan.
        """
        folder = path_of("folder", folder)
        check_dtypes(dtype=dtype)
        device, offload_device = device_of("device", device), device_of("offload_device", offload_device)
        index = read_index(folder)
        two_experts, image_encoder = (has_part(index, part) for part in ("transformer_2", "image_encoder"))
        model = cls.from_files(
            transformer=folder / "transformer", low_noise_transformer=folder / "transformer_2" if two_experts else None,
            vae=folder, text_encoder=folder, image_encoder=folder if image_encoder else None, dtype=dtype, device=device,
            offload_device=offload_device,
        )  # fmt: skip
        first_frame = bool(index.get("expand_timesteps", False))
        return replace(model, name=folder.name, boundary=index.get("boundary_ratio"), first_frame=first_frame)

    @classmethod
    def from_files(
        cls,
        *,
        transformer: Path | str,
        vae: Path | str,
        text_encoder: Path | str,
        low_noise_transformer: Path | str | None = None,
        image_encoder: Path | str | None = None,
        tokenizer: Path | str | None = None,
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> "WanModel":
        """From single files or component folders, in any mixture.

        Args:
            transformer: the only one, or the high-noise expert where `low_noise_transformer` is given.
            tokenizer: where the text encoder does not carry one; see `TextEncoder.load`.
            dtype: of the transformers and both encoders; as stored when None.
            vae_dtype: of the VAE; as stored when None.

        Raises:
            LoadError: a file is missing or broken, or the parts do not belong together.
        """
        check_paths(transformer=transformer, vae=vae, text_encoder=text_encoder)
        check_optional(low_noise_transformer=low_noise_transformer, image_encoder=image_encoder, tokenizer=tokenizer)
        check_dtypes(dtype=dtype, vae_dtype=vae_dtype)
        places = {"device": device_of("device", device), "offload_device": device_of("offload_device", offload_device)}
        files = {"single": File(Path(transformer).absolute(), dtype)}
        if low_noise_transformer is not None:
            files = {"high_noise": files["single"], "low_noise": File(Path(low_noise_transformer).absolute(), dtype)}
        transformers = {expert: load_transformer(file.path, file.dtype) for expert, file in files.items()}
        video_vae = VideoVAE.load(vae, vae_dtype, device=places["device"], offload_device=places["offload_device"])
        texts = TextEncoder.load(text_encoder, tokenizer, dtype, **places)
        images = None if image_encoder is None else ImageEncoder.load(image_encoder, dtype, **places)
        rows = recognised(transformers)
        return cls(
            name=Path(transformer).stem,
            transformers=transformers,
            vae=video_vae,
            text_encoder=texts,
            image_encoder=images,
            variant=rows[0] if len(rows) == 1 else None,
            boundary=rows[0].boundary if rows else None,
            first_frame=video_vae.channels == 48,  # the VAE of TI2V-5B alone
            device=places["device"],
            offload_device=places["offload_device"],
            files=files,
        )

    def video_size(self, *, width: int, height: int, frames: int) -> VideoSize:
        """A size on the grid of this model's VAE.

        Raises:
            RequestError: it is off the grid; the message names the nearest one.
        """
        return VideoSize(width=width, height=height, frames=frames, spatial=self.vae.spatial, temporal=self.vae.temporal)

    @property
    def title(self) -> str:
        """The published checkpoint, or those that have this size."""
        rows = [self.variant] if self.variant is not None else recognised(self.transformers)
        return " or ".join(row.title for row in rows) or "not a published size"

    @property
    def takes_image_channels(self) -> bool:
        """Whether it is an image-to-video network, which reads mask and image beside the noise."""
        return bool(self._any_transformer.config.in_channels != self.vae.channels)

    def condition(
        self,
        prompt: str,
        negative: str | None,
        size: VideoSize,
        first_image: Tensor | None = None,
        last_image: Tensor | None = None,
        image_motion: float = 1.0,
    ) -> Conditioning:
        """What a generation of `size` is told.

        Args:
            negative: the negative prompt; None where no step is guided.
            first_image, last_image: (1, 3, height, width) in 0..1, of exactly `size`. Image-to-video models need the first
                one; FLF2V both; Wan2.2 I2V takes both; TI2V-5B may have the first one; text-to-video takes none.
            image_motion: amplitude of the motion away from the first image, for runs that came out slow; see `amplified`.
                1 changes nothing; more is for image-to-video models and the first image alone.

        Raises:
            ConditioningError: an image is missing, too many, or of another size; a prompt is too long.
            RequestError: the size is made for another VAE; the amplitude is not from 1 to 2.
        """
        self._check_size(size)
        for name, text in (("prompt", prompt), ("negative", negative)):
            if text is not None or name == "prompt":
                of_kind(f"The {name}", text, str, "give a text.")
        images = self._fitting(size, first_image, last_image)
        check_motion(image_motion, self.takes_image_channels, last_image is not None)
        rows = self.text_encoder.encode([prompt] if negative is None else [prompt, negative])
        return Conditioning(
            positive=rows[:1],
            negative=None if negative is None else rows[1:],
            image=self._image_channels(size, images, image_motion) if self.takes_image_channels else None,
            image_tokens=self._image_tokens(images),
            first_frame=self._given_frame(images),
        )

    def generate(
        self,
        request: SamplingRequest,
        conditioning: Conditioning,
        size: VideoSize,
        cache: NewCache | None = None,
        attention: AttentionSettings | None = None,
        sparse: SparseSchedule | None = None,
        compile: CompileSettings | None = None,
        state: GenerationState | None = None,
    ) -> Generation:
        """The generation, to be iterated: nothing runs before its first step is asked for.

        Args:
            cache: a step cache, such as `with_magcache()`; every step computes when None.
            attention: backends that are tried before the run; diffusers' own attention when None.
            sparse: where self-attention computes a part of the tokens' pairs; `attention` stays in the dense steps and layers.
            compile: the transformer's blocks by torch.compile, in the first step; they run as they are when None.
            state: of an earlier generation of the same request, size and weights, to go on from; it begins with noise when None.

        Raises:
            RequestError: the request contradicts itself, the model or the cache; an attention backend cannot run here, or
                blocks cannot be compiled; the state is of another generation.
            NumericsError: an attention backend gives wrong values here.
            LoadError: the cache needs a ratio table, and there is none for this model.
            ConditioningError: the conditioning does not fit the model or the size.
        """
        self._check_size(size)
        generation = Generation(self, request, conditioning, size, cache, attention, sparse, compile, state)
        self.check(generation)
        return generation

    def check(self, generation: Generation) -> None:
        """Raises RequestError where its experts cannot work so: those of this process can."""

    def working(self, transformers: Transformers, work: Work) -> Working:
        """Some of its experts at the work of a generation."""
        return WorkingExperts(work, transformers, self.device, self.offload_device)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, F, height, width) in 0..1, float32, of normalised latents (B, C, T, H, W).

        Raises:
            ConditioningError: they are not of this model. NumericsError: they are not finite.
        """
        of_kind("latents", latents, Tensor, "give the latents of a generation, (batch, channels, frames, height, width).")
        check_finite(latents, "What made the latents to be decoded")
        return self.vae.decode(latents)

    @property
    def _any_transformer(self) -> "WanTransformer3DModel":
        return next(iter(self.transformers.values()))

    def _check_size(self, size: VideoSize) -> None:
        of_kind("size", size, VideoSize, "give model.video_size(width=..., height=..., frames=...).")
        if (size.spatial, size.temporal) != (self.vae.spatial, self.vae.temporal):
            raise RequestError(
                f"The size is for a VAE that compresses {size.spatial} x {size.spatial} x {size.temporal}; this model's does "
                f"{self.vae.spatial} x {self.vae.spatial} x {self.vae.temporal}. Make it with model.video_size(...)."
            )

    def _fitting(self, size: VideoSize, first: Tensor | None, last: Tensor | None) -> list[Tensor]:
        """Those that are given, first and last."""
        check_which(
            self._any_transformer.config, self.takes_image_channels, self.first_frame, first is not None, last is not None
        )
        given = {"first": first, "last": last}
        return [fitting(which, image, size) for which, image in given.items() if image is not None]

    def _image_channels(self, size: VideoSize, images: Sequence[Tensor], motion: float) -> Tensor:
        """(1, 20, T, H, W), of a video that is mid-grey but for the first and, where given, the last frame."""
        frames = torch.zeros(1, 3, size.frames, size.height, size.width, device="cpu")
        known = torch.zeros(size.frames, dtype=torch.bool, device="cpu")
        for place, image in zip((0, -1), images, strict=False):
            frames[:, :, place] = image * 2 - 1
            known[place] = True
        latents = self.vae.encode(frames)
        return image_condition(latents if motion == 1 else self._moved(latents, motion), known)

    def _moved(self, latents: Tensor, motion: float) -> Tensor:
        """(B, 16, T, H, W), normalised, which the formula's are not."""
        mean, std = self.vae.latents_mean, self.vae.latents_std
        return (amplified(latents * std + mean, motion) - mean) / std

    def _image_tokens(self, images: Sequence[Tensor]) -> Tensor | None:
        """(1, 257 per image, 1280), for the networks that read them."""
        if self.image_encoder is None or self._any_transformer.config.image_dim is None:
            return None
        return self.image_encoder.encode(torch.cat(list(images))).flatten(0, 1)[None]

    def _given_frame(self, images: Sequence[Tensor]) -> GivenFrame | None:
        if not images or not self.first_frame:
            return None
        return GivenFrame(self.vae.encode(images[0][:, :, None] * 2 - 1))
