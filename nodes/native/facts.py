"""What a native Wan MODEL is, read from its weights, and whether the other inputs fit it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_base import WAN21, WAN22, ModelType

from fastvideo_core import ConditioningError, RequestError, check_finite
from fastvideo_core.wan import WanVariant, recognise

NOTE = "fastvideo_note"
"""Among what a CONDITIONING tells: a line for the run report."""


@dataclass(frozen=True, kw_only=True)
class WanFacts:
    """in_channels: what the network reads; latent_channels: of its latents; text_dim: of the texts it reads; image_tokens: CLIP
    tokens it reads, or 0; plain: it reads its conditions as Wan's text-to-video and image-to-video do, not as VACE, camera
    control or Animate."""

    name: str
    in_channels: int
    latent_channels: int
    dim: int
    layers: int
    text_dim: int
    image_tokens: int
    plain: bool

    def variants(self, two_experts: bool) -> list[WanVariant]:
        """The published checkpoints it may be."""
        return list(
            recognise(
                in_channels=self.in_channels,
                latent_channels=self.latent_channels,
                dim=self.dim,
                layers=self.layers,
                image_tokens=self.image_tokens,
                two_experts=two_experts,
            )
        )


def wan_facts(model: Any, socket: str = "model") -> WanFacts:
    """Reads a MODEL. Raises RequestError for one that is not Wan."""
    base = model.model
    if not isinstance(base, WAN21) or base.model_type is not ModelType.FLOW:
        raise RequestError(
            f"The {socket} input holds a {type(base).__name__} model; this node samples Wan 2.1 and 2.2. Connect a Wan diffusion "
            "model, or use core's KSampler for this one."
        )
    network = base.diffusion_model
    image_tokens = 0
    if getattr(network, "img_emb", None) is not None:
        image_tokens = 257 if network.img_emb.emb_pos is None else 514  # first and last frame: positions for two images
    return WanFacts(
        name=type(base).__name__,
        in_channels=network.patch_embedding.weight.shape[1],
        latent_channels=base.latent_format.latent_channels,
        dim=network.dim,
        layers=len(network.blocks),
        text_dim=network.text_dim,
        image_tokens=image_tokens,
        plain=type(base).concat_cond is WAN21.concat_cond and type(base).extra_conds in (WAN21.extra_conds, WAN22.extra_conds),
    )


def check_shareable(model: Any, path: str) -> None:
    """Raises RequestError for a MODEL whose tokens several ranks cannot share, by its name."""
    facts, network = wan_facts(model), model.model.diffusion_model
    if not facts.plain or type(network) is not WanModel:
        raise RequestError(
            f"{path} holds a {facts.name} ({type(network).__name__}), which puts other tokens or a second stack of blocks beside "
            "the video's. Several GPUs can share the plain Wan networks: text-to-video, image-to-video with one or two images, "
            "and the 5B. Load this one with ComfyUI's own loader."
        )


def socket_of(expert: str) -> str:
    """Where a run's further expert was connected."""
    return "low_noise_model" if expert == "low_noise" else f"the model of {expert}"


def check_experts(first: WanFacts, other: WanFacts, name: str) -> None:
    """Experts of a run are trainings of one network. name: of the other one, or of its phase."""
    if first != other:
        raise RequestError(
            f"The two experts differ: model is {_measures(first)}, {socket_of(name)} is {_measures(other)}. Connect the "
            "high-noise and the low-noise file of the same Wan 2.2 model."
        )


def check_one_device(model: Any, name: str) -> None:
    """Experts after the first are loaded in the middle of a run, on one device."""
    if model.get_additional_models_with_key("multigpu"):
        raise RequestError(
            f"{socket_of(name)} is spread over several GPUs by a MultiGPU node, and experts after the first run on one. "
            "Remove that node from it; the model of the first phase may keep it."
        )


def check_latent(samples: Any, facts: WanFacts) -> None:
    """Whether the network can sample these latents, (B, C, T, H, W)."""
    shape = tuple(getattr(samples, "shape", ()))
    if not isinstance(samples, torch.Tensor) or len(shape) != 5:
        raise ConditioningError(
            f"The latent has shape {shape}: Wan needs a video latent (batch, channels, frames, height, width). Use core's Wan or "
            "EmptyHunyuanLatentVideo node."
        )
    if samples.shape[1] != facts.latent_channels:
        node = "Wan22ImageToVideoLatent" if facts.latent_channels == 48 else "EmptyHunyuanLatentVideo or WanImageToVideo"
        raise ConditioningError(
            f"The latent has {samples.shape[1]} channels and {facts.name} reads {facts.latent_channels}: make it with {node}."
        )
    height, width = samples.shape[-2:]
    if height % 2 or width % 2:
        raise ConditioningError(
            f"The latent is {width} x {height}: Wan joins 2 x 2 latent pixels, so both must be even. Choose a video width and "
            f"height that are multiples of {16 if facts.latent_channels == 16 else 32} pixels."
        )
    check_finite(samples, "The node that made the LATENT input")


def check_conditioning(conditionings: Mapping[str, Any], facts: WanFacts) -> None:
    """An image condition that the network would not read, or one that it misses, changes the video without a word in core, and a
    text of another width fails in the network.

    Args:
        conditionings: branch -> CONDITIONING, of the branches that run.
    """
    for branch, conditioning in conditionings.items():
        _check_text(branch, {text.shape[-1] for text, _ in conditioning}, facts)
        for _, entry in conditioning if facts.plain else ():
            _check_image(branch, entry.get("concat_latent_image") is not None, facts)
            _check_image_tokens(branch, entry.get("clip_vision_output") is not None, facts)


def condition_notes(conditionings: Mapping[str, Any], facts: WanFacts) -> tuple[str, ...]:
    """What core's network does without a word where image tokens are missing, which Fun Control, Fun InP and InfiniteTalk need
    not have.

    Args:
        conditionings: branch -> CONDITIONING, of the branches that run.
    """
    missing = [name for name, entries in conditionings.items() if any(e.get("clip_vision_output") is None for _, e in entries)]
    if not (facts.image_tokens and missing):
        return ()
    return (
        f"the {' and the '.join(missing)} conditioning held no CLIP image tokens, which {facts.name} reads: core's network read "
        "the text in their place. Where the start image matters, connect CLIPVisionEncode to clip_vision_output of its node",
    )


def told_notes(conditionings: Mapping[str, Any]) -> tuple[str, ...]:
    """What the node that encoded a prompt had to say of it."""
    return tuple(dict.fromkeys(entry[NOTE] for entries in conditionings.values() for _, entry in entries if NOTE in entry))


def expert_notes(models: Sequence[Any], facts: WanFacts, whole: bool) -> tuple[str, ...]:
    """Set-ups that run and are seldom meant. models: of the experts; whole: whether the run goes over all noise levels."""
    if len(models) > 1:
        same = len({(id(model.model), model.patches_uuid) for model in models}) < len(models)
        return ("the same model is both experts: connect the low-noise file to low_noise_model, or nothing",) if same else ()
    pairs = facts.variants(two_experts=True) if whole and facts.plain and not facts.variants(two_experts=False) else ()
    return tuple(f"one expert of {row.title} sampled alone: connect the other one to low_noise_model" for row in pairs)


def check_frames(conditionings: Mapping[str, Any], samples: torch.Tensor, facts: WanFacts) -> None:
    """Whether a start image's frames, (B, 16, T, H, W), are those of the latents. Core fits width and height, not frames."""
    images = [entry.get("concat_latent_image") for entries in conditionings.values() for entry in entries]
    for image in images if facts.plain else ():
        if image is not None and image.shape[2] != samples.shape[2]:
            raise ConditioningError(
                f"The start image was encoded for {image.shape[2]} latent frames and the latent has {samples.shape[2]}: use the "
                "latent that comes out of the same WanImageToVideo node, or give both the same length."
            )


def _check_text(branch: str, widths: set[int], facts: WanFacts) -> None:
    if widths != {facts.text_dim}:
        found = ", ".join(map(str, sorted(widths)))
        raise ConditioningError(
            f"The {branch} conditioning's text is {found} wide, and {facts.name} reads {facts.text_dim}: it was encoded for "
            "another model. Connect this model's text encoder: for published Wan models UMT5-XXL by core's CLIP loader, type wan."
        )


def _check_image(branch: str, given: bool, facts: WanFacts) -> None:
    if facts.in_channels == facts.latent_channels and given:
        raise ConditioningError(
            f"The {branch} conditioning holds a start image, and {facts.name} is a text-to-video network with "
            f"{facts.in_channels} input channels that cannot read it. Load an image-to-video model, or remove WanImageToVideo."
        )
    if facts.in_channels == facts.latent_channels + 20 and not given:
        raise ConditioningError(
            f"{facts.name} is an image-to-video network ({facts.in_channels} input channels) and the {branch} conditioning holds "
            "no start image. Pass both conditionings through WanImageToVideo with a start_image, or load a text-to-video model."
        )


def _check_image_tokens(branch: str, given: bool, facts: WanFacts) -> None:
    if given and not facts.image_tokens:
        raise ConditioningError(
            f"The {branch} conditioning holds CLIP image tokens, which {facts.name} does not read: only Wan 2.1 image-to-video "
            "does. Remove clip_vision_output from WanImageToVideo, or load that model."
        )


def _measures(facts: WanFacts) -> str:
    return f"{facts.name} with {facts.in_channels} input channels, {facts.layers} blocks of width {facts.dim}"
