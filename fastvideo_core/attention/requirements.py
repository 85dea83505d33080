"""What an attention backend needs, as small rules that explain themselves. Nothing here imports an optional package."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import RequestError

MaskKind = Literal["none", "padding", "dense", "bias"]
MASK_WORDS = {"none": "no mask", "padding": "a padding mask", "dense": "a dense mask", "bias": "an additive bias"}


def mask_kind(mask: Tensor | None) -> MaskKind:
    """ "padding": (B, Lk) bool, True for keys that count; "dense": (B or 1, H or 1, Lq or 1, Lk) bool, True where a query may
    attend; "bias": the same shape, floating, added to the scaled scores.

    Raises:
        RequestError: it is none of these. Integers are refused, for what a 0 means differs from library to library.
    """
    if mask is None:
        return "none"
    if mask.dtype == torch.bool and mask.ndim in (2, 4):
        return "padding" if mask.ndim == 2 else "dense"
    if mask.is_floating_point() and mask.ndim == 4:
        return "bias"
    raise RequestError(
        f"An attention mask of {mask.dtype} with shape {tuple(mask.shape)} was given. Give a bool one, (B, Lk) for padding or "
        "(B, H, Lq, Lk), True where a query may attend, or a floating (B, H, Lq, Lk) that is added to the scores."
    )


@dataclass(frozen=True)
class Situation:
    """Where attention shall run. capability: CUDA compute capability, None where the device is no NVIDIA GPU."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    mask: MaskKind = "none"
    capability: tuple[int, int] | None = None

    @classmethod
    def on(cls, device: torch.device | str, dtype: torch.dtype, head_dim: int, mask: MaskKind = "none") -> "Situation":
        """With the capability of that device."""
        device = torch.device(device)
        nvidia = device.type == "cuda" and torch.version.hip is None
        return cls(device, dtype, head_dim, mask, torch.cuda.get_device_capability(device) if nvidia else None)


class Requirement(Protocol):
    """One thing that a backend needs."""

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        """Why not, in words; nothing where it is met."""
        ...


@dataclass(frozen=True)
class Package:
    """An installed Python package, looked up and never imported. at_least, below: versions, such as "2.6.3"."""

    distribution: str
    module: str
    at_least: str = ""
    below: str = ""

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        wanted = self.distribution + (f" >= {self.at_least}" if self.at_least else "") + (f" < {self.below}" * bool(self.below))
        if util.find_spec(self.module) is None:
            return (f"needs the package {wanted}, which is not installed",)
        try:
            version = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return (f"needs the package {wanted}; {self.module} is there and does not tell its version",)
        too_old = bool(self.at_least) and release(version) < release(self.at_least)
        too_new = bool(self.below) and release(version) >= release(self.below)
        return (f"needs the package {wanted}; {version} is installed",) if too_old or too_new else ()


@dataclass(frozen=True)
class Torch:
    """torch of at least this version."""

    at_least: str

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        enough = release(torch.__version__) >= release(self.at_least)
        return () if enough else (f"needs torch >= {self.at_least}; {torch.__version__} is installed",)


@dataclass(frozen=True)
class Device:
    """A kind of device: "cuda", "cpu"."""

    kinds: tuple[str, ...]

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        kind = situation.device.type
        return () if kind in self.kinds else (f"runs on {words(self.kinds)}; the device is {kind}",)


@dataclass(frozen=True)
class Capability:
    """An NVIDIA GPU of at least one compute capability and, where given, below another: (9, 0) is Hopper, (10, 0) Blackwell."""

    at_least: tuple[int, int]
    below: tuple[int, int] | None = None

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        limit = f" and below {_dotted(self.below)}" if self.below else ""
        wanted = f"needs an NVIDIA GPU of compute capability {_dotted(self.at_least)} or more{limit}"
        if situation.capability is None:
            return (f"{wanted}; the device is {situation.device.type}",)
        fits = situation.capability >= self.at_least and (self.below is None or situation.capability < self.below)
        return () if fits else (f"{wanted}; this one has {_dotted(situation.capability)}",)


@dataclass(frozen=True)
class Dtypes:
    """What q, k and v may be."""

    dtypes: tuple[torch.dtype, ...]

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        if situation.dtype in self.dtypes:
            return ()
        return (f"computes in {words(dtype_name(dtype) for dtype in self.dtypes)}; the model's is {dtype_name(situation.dtype)}",)


@dataclass(frozen=True)
class HeadDim:
    """Values per head: at most `most` and divisible by `multiple`, or one of `exactly`."""

    most: int = 0
    multiple: int = 1
    exactly: tuple[int, ...] = ()

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        size = situation.head_dim
        if size in self.exactly or (not self.exactly and size <= self.most and size % self.multiple == 0):
            return ()
        wanted = words(map(str, self.exactly)) if self.exactly else f"a multiple of {self.multiple} up to {self.most}"
        return (f"takes a head_dim of {wanted}; the model's is {size}",)


@dataclass(frozen=True)
class Masks:
    """The kinds of masks it takes; always none as well."""

    kinds: tuple[MaskKind, ...] = ()

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        if situation.mask in ("none", *self.kinds):
            return ()
        taken = words(MASK_WORDS[kind] for kind in ("none", *self.kinds))
        return (f"takes {taken}; the call has {MASK_WORDS[situation.mask]}",)


@dataclass(frozen=True)
class Compiler:
    """What torch.compile builds with: triton on a GPU, a C++ compiler on the CPU."""

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        if situation.device.type == "cuda":
            return Package("triton", "triton").unmet(situation) if torch.version.hip is None else ()
        there = any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
        return () if there else ("is compiled for the CPU, and there is no C++ compiler on the path",)


@dataclass(frozen=True)
class On:
    """Requirements that hold on one kind of device only."""

    kind: str
    requirements: tuple[Requirement, ...]

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        return unmet(self.requirements, situation) if situation.device.type == self.kind else ()


def unmet(requirements: Iterable[Requirement], situation: Situation) -> tuple[str, ...]:
    """Every reason of every requirement, in their order."""
    return tuple(reason for requirement in requirements for reason in requirement.unmet(situation))


def where(situation: Situation) -> str:
    """For a message."""
    return f"{situation.device}, {dtype_name(situation.dtype)}, head_dim {situation.head_dim}"


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 11, 0) of "2.11.0+cu128"."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def words(names: Iterable[str]) -> str:
    """ "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
