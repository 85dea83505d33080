"""Wan's video VAEs: frames to normalised latents and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConditioningError, LoadError
from ..json_object import made_of
from .loading.checkpoint import Checkpoint, open_checkpoint
from .placement import placed, room
from .vae_keys import config_of, diffusers_key, is_original
from .weights import check_keys, component, not_a, read_config, read_state

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

# Wan2.2, wan/modules/vae2_2.py, class Wan2_2_VAE. Those of the 16-channel VAE are AutoencoderKLWan's defaults.
MEAN_48 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098,
    0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567,
    -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957,
    0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
STD_48 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454,
    0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999,
    0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444,
    0.4089, 0.7468, 0.7744,
)  # fmt: skip


@dataclass(frozen=True)
class VideoVAE:
    """A VAE over `network`, which is on `device` only while it works."""

    network: "AutoencoderKLWan"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    offload_device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @classmethod
    def load(
        cls,
        path: Path | str,
        dtype: torch.dtype | None = None,
        *,
        device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
        tiling: bool = False,
    ) -> "VideoVAE":
        """From a diffusers repository (or its `vae` folder), or from a single file with Wan's own names (2.1 or 2.2).

        Args:
            dtype: what the network computes in; as stored when None.
            tiling: work in tiles of 256 x 256 pixels that overlap, in less memory; their seams are blended, so the result
                differs a little (diffusers' enable_tiling).

        Raises:
            LoadError: no such file, or it holds something else.
        """
        source = component(path, "vae")
        checkpoint = open_checkpoint(source)
        if source.is_dir():
            config, names = read_config(source, "AutoencoderKLWan"), {key: key for key in checkpoint.tensors}
        else:
            config, names = original_layout(checkpoint)
        state, _ = read_state(checkpoint, checkpoint.tensors, dtype)
        network = build(config, {names[key]: tensor for key, tensor in state.items()}, source)
        network.to(torch.device(offload_device))
        if tiling:
            network.enable_tiling()
        return cls(network, torch.device(device), torch.device(offload_device))

    @property
    def channels(self) -> int:
        """Latent channels: 16, or 48 for Wan2.2 TI2V-5B."""
        return int(self.network.config.z_dim)

    @property
    def spatial(self) -> int:
        """Compression of height and width."""
        return int(self.network.config.scale_factor_spatial)

    @property
    def temporal(self) -> int:
        """Compression of time: 1 + temporal * (T - 1) frames are T latent frames."""
        return int(self.network.config.scale_factor_temporal)

    @property
    def latents_mean(self) -> Tensor:
        """(1, C, 1, 1, 1) float32, of raw latents: normalised = (raw - mean) / std."""
        return torch.tensor(self.network.config.latents_mean, device="cpu").view(1, -1, 1, 1, 1)

    @property
    def latents_std(self) -> Tensor:
        """(1, C, 1, 1, 1) float32."""
        return torch.tensor(self.network.config.latents_std, device="cpu").view(1, -1, 1, 1, 1)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The mean of the posterior, normalised.

        Args:
            frames: (B, 3, F, H, W) in -1..1; F = temporal * k + 1, H and W multiples of `spatial`.

        Returns: (B, C, T, H / spatial, W / spatial) float32 on the CPU or wherever `frames` are.
        """
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ConditioningError(f"Frames have shape {tuple(frames.shape)}; expected (batch, 3, frames, height, width).")
        count, height, width = frames.shape[2:]
        if (count - 1) % self.temporal or height % self.spatial or width % self.spatial:
            raise ConditioningError(
                f"{count} frames of {width} x {height} pixels do not fit the VAE: frames must be {self.temporal} * k + 1, "
                f"width and height multiples of {self.spatial}."
            )
        with self._working(f"Encoding {count} frames of {width} x {height} pixels"):
            posterior = self.network.encode(frames.to(self.device, self.network.dtype)).latent_dist
        raw: Tensor = posterior.mode().to(frames.device, torch.float32)
        return (raw - self.latents_mean.to(raw)) / self.latents_std.to(raw)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, 1 + temporal * (T - 1), spatial * H, spatial * W) in 0..1, float32, of normalised latents
        (B, C, T, H, W), on the device of the latents."""
        if latents.ndim != 5 or latents.shape[1] != self.channels:
            raise ConditioningError(
                f"Latents have shape {tuple(latents.shape)}; this VAE decodes (batch, {self.channels}, frames, height, width)."
            )
        raw = latents.float() * self.latents_std.to(latents.device) + self.latents_mean.to(latents.device)
        with self._working(f"Decoding {latents.shape[2]} latent frames of {latents.shape[4]} x {latents.shape[3]}"):
            frames: Tensor = self.network.decode(raw.to(self.device, self.network.dtype)).sample
        return (frames.to(latents.device, torch.float32) / 2 + 0.5).clamp(0, 1)

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """The network on its device. Raises CapacityError where `what` does not fit there."""
        ways_out = "Load the VAE in bfloat16 or with tiling=True, or make a smaller or shorter video"
        try:
            with (
                placed(self.network, self.device, self.offload_device),
                room(lambda: f"{what} does not fit into the memory of {self.device}. {ways_out}."),
            ):
                yield
        finally:
            self.network.clear_cache()  # what it keeps from frame to frame, if it was stopped between two


def original_layout(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Configuration of a single file, and diffusers' name for each of its keys."""
    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    if not is_original(shapes):
        raise not_a(
            "Wan VAE with encoder and decoder under Wan's own names (encoder.conv1.weight, ...)",
            checkpoint,
            "Of a diffusers repository give the folder, which has the config.json.",
        )
    config = config_of(shapes)
    statistics: dict[int, dict[str, Any]] = {16: {}, 48: {"latents_mean": MEAN_48, "latents_std": STD_48}}
    if config["z_dim"] not in statistics:
        raise LoadError(
            f"{checkpoint.path} has {config['z_dim']} latent channels; the mean and deviation of latents are known for 16 "
            "(Wan 2.1) and 48 (Wan 2.2). Load it from a diffusers folder, whose config.json states them."
        )
    return config | statistics[config["z_dim"]], {key: diffusers_key(key, config["num_res_blocks"]) for key in shapes}


def build(config: dict[str, Any], state: dict[str, Tensor], source: Path) -> "AutoencoderKLWan":
    """The network with its weights assigned, not copied."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        network = made_of(f"{source} is no AutoencoderKLWan", lambda: AutoencoderKLWan.from_config(config))
    try:
        missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise LoadError(f"{source} does not fit AutoencoderKLWan: {error}") from error
    check_keys(missing, unexpected, source, "AutoencoderKLWan")
    return network.eval().requires_grad_(False)
