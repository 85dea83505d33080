"""The parts of a checkpoint: which they are in a repository, and whether they belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LoadError
from ..json_object import read_json_file
from .image_encoder import ImageEncoder
from .text_encoder import TextEncoder
from .vae import VideoVAE
from .variants import WanVariant, recognise

if TYPE_CHECKING:
    import torch
    from diffusers import WanTransformer3DModel

PAIR = frozenset({"high_noise", "low_noise"})
"""The experts of a Wan 2.2 checkpoint."""
Transformers = Mapping[str, "WanTransformer3DModel"]
MASK_CHANNELS = 4
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline", "AnyFlowPipeline")


@dataclass(frozen=True)
class File:
    """Of an expert's weights. dtype: as for `load_transformer`."""

    path: Path
    dtype: "torch.dtype | None"


class Parts(Protocol):
    """What a generation works with: a `WanModel`."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def transformers(self) -> Transformers: ...

    @property
    def device(self) -> "torch.device": ...

    @property
    def offload_device(self) -> "torch.device": ...

    @property
    def ratio_tables(self) -> tuple[Path, ...]: ...


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json of a Wan repository."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise LoadError(
            f"{folder} has no model_index.json, so it is no diffusers repository. Give the folder that has one, or load single "
            "files with WanModel.from_files."
        )
    index = read_json_file(file)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise LoadError(f"{folder} is a repository for {pipeline!r:.80}; give one for {', '.join(PIPELINES)}.")
    boundary, first_frame = index.get("boundary_ratio"), index.get("expand_timesteps", False)
    if not isinstance(first_frame, bool) or not (boundary is None or _is_share(boundary)):
        raise LoadError(
            f"{file}: boundary_ratio is {boundary!r:.80} and expand_timesteps {first_frame!r:.80}: a number between 0 and 1 or "
            "null, and true or false. Download the file again or mend it."
        )
    return index


def has_part(index: Mapping[str, Any], name: str) -> bool:
    """Whether a repository has a network of that name; null stands in the place of one that it lacks."""
    entry = index.get(name)
    return isinstance(entry, list) and bool(entry) and entry[0] is not None


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


def recognised(transformers: Transformers) -> Sequence[WanVariant]:
    """The published checkpoints of this size: none for another size, several where the weights do not tell them apart. Networks
    of other names than a pair's may be experts of a pair or checkpoints of their own."""
    config = next(iter(transformers.values())).config
    image_tokens = 0 if config.image_dim is None else config.pos_embed_seq_len or 257
    pair, single = set(transformers) >= PAIR, len(transformers) == 1
    return [row for two in sorted({not single, pair}) for row in _of_size(config, image_tokens, two)]


def _of_size(config: Any, image_tokens: int, two_experts: bool) -> Sequence[WanVariant]:
    return recognise(
        in_channels=config.in_channels,
        latent_channels=config.out_channels,
        dim=config.num_attention_heads * config.attention_head_dim,
        layers=config.num_layers,
        image_tokens=image_tokens,
        two_experts=two_experts,
    )


def check_parts(transformers: Transformers, vae: VideoVAE, text_encoder: TextEncoder, image_encoder: ImageEncoder | None) -> None:
    """Raises LoadError when the networks are not those of one checkpoint."""
    _check_experts(transformers)
    transformer = next(iter(transformers.values())).config
    channels, width = vae.channels, text_encoder.network.config.d_model
    if transformer.out_channels != channels:
        raise LoadError(
            f"The transformer makes latents of {transformer.out_channels} channels and the VAE has {channels}: 16 are Wan 2.1 "
            "and Wan 2.2 A14B, 48 are Wan 2.2 TI2V-5B. Give the VAE of the same checkpoint."
        )
    if transformer.in_channels not in (channels, 2 * channels + MASK_CHANNELS):
        raise LoadError(
            f"The transformer reads {transformer.in_channels} channels, which is neither text-to-video ({channels}) nor "
            f"image-to-video ({2 * channels + MASK_CHANNELS}). It is a kind of model that is not conditioned here."
        )
    if transformer.text_dim != width:
        raise LoadError(
            f"The transformer reads text rows {transformer.text_dim} wide and the text encoder gives {width}: Wan reads "
            "UMT5-XXL, 4096. Give the text encoder of the same checkpoint."
        )
    if transformer.image_dim is not None and image_encoder is None:
        raise LoadError(
            "The transformer reads CLIP image tokens (Wan 2.1 I2V or FLF2V) and there is no image encoder. Give image_encoder: "
            "the repository's folder, or clip_vision_h.safetensors."
        )


def _check_experts(transformers: Transformers) -> None:
    sizes = {expert: _inputs(transformer) for expert, transformer in transformers.items()}
    if not sizes or not all(isinstance(expert, str) and expert for expert in sizes):
        raise LoadError(
            f"Transformers were given as {list(sizes)!r:.80}: give one or more by name, such as single, or high_noise and "
            "low_noise."
        )
    if len(set(sizes.values())) > 1:
        words = "; ".join(f"{expert} {', '.join(f'{name} {value}' for name, value in size)}" for expert, size in sizes.items())
        raise LoadError(f"The transformers are not of one size of network: {words}. Give experts of one size.")


def _inputs(transformer: "WanTransformer3DModel") -> tuple[tuple[str, int | None], ...]:
    """What the experts of a model have in common."""
    config = transformer.config
    names = ("in_channels", "out_channels", "num_attention_heads", "num_layers", "text_dim", "image_dim")
    return tuple((name, config[name]) for name in names)
