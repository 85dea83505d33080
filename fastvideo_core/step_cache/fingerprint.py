"""Which checkpoint a network's weights are, whatever precision they are stored in.

A hash is of one file's values. A fingerprint holds values that all files of a checkpoint keep: biases, norms, modulation and the
patch embedding, for formats of 8 and 4 bits pack the matrices. They are rounded, to bfloat16 here and to float8 there, so two
files are of one checkpoint where rounding explains how their values differ. LoRAs are no part of it, merged into the file or
not, unless they change such values.

Share of the values whose difference rounding explains, over all pairs of files in float32, float16, bfloat16, float8_e4m3fn and
these rounded twice. Measured on the demo's text-to-video model, and on its two experts, which were fine-tuned from it for 200
and 300 steps: that moved these values by 1.5 % (mean).

| pair | one of the two in float8 (e4m3) | both in 16 bits or more, as in fp8_scaled and GGUF files |
|---|---|---|
| the same checkpoint | 0.979 to 1 | 1 |
| t2v and the high-noise expert | 0.862 to 0.927 | 0.370 to 0.515 |
| t2v and the low-noise expert | 0.883 to 0.940 | 0.399 to 0.560 |
| the two experts | 0.821 to 0.899 | 0.294 to 0.446 |
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SAMPLED = 256
"""Values of each weight that go into the hash, evenly spread: a changed weight changes nearly all of its values."""
TENSORS = 128
"""How many tensors a fingerprint looks at, and at how many values of each."""
VALUES = 8
SAME = 0.96
"""The share from which two files are of one checkpoint: in the middle of 0.940 and 0.979."""

_GRIDS = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Fingerprint:
    """name: `network_hash`. values: some of them, by the weight's original name."""

    name: str
    values: Mapping[str, tuple[float, ...]]

    def agreement(self, other: "Fingerprint") -> float:
        """The share of the values, 0 to 1, whose difference rounding explains; 0 for networks of other layers."""
        if self.name == other.name:
            return 1.0
        common = [name for name in self.values if len(self.values[name]) == len(other.values.get(name, ()))]
        if 2 * len(common) <= max(len(self.values), len(other.values)):
            return 0.0
        explained = _explained([self.values[name] for name in common], [other.values[name] for name in common])
        return float(explained.float().mean())

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "values": {name: " ".join(map(repr, row)) for name, row in self.values.items()}}


def fingerprint(weights: Mapping[str, Tensor]) -> Fingerprint:
    """weights: by their original names (`original_keys`), without LoRAs (`before_loras`); packed ones as they are stored."""
    kept = (name for name, weight in weights.items() if weight.ndim != 2 and weight.is_floating_point())
    chosen = sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest())[:TENSORS]
    return Fingerprint(network_hash(weights), {name: _sample(weights[name]) for name in chosen})


def read_fingerprint(row: Mapping[str, Any]) -> Fingerprint:
    """What `Fingerprint.json` gives."""
    return Fingerprint(row["name"], {name: tuple(map(float, text.split())) for name, text in row["values"].items()})


def joined_name(weights: Sequence[Fingerprint]) -> str:
    """The name of a table that was measured on these networks, the high-noise expert's first."""
    return "_".join(network.name for network in weights)


def network_hash(weights: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that tell one network's weights apart: SHA-256 over the name, shape and `SAMPLED` values of each,
    for a hash over all of them would read tens of gigabytes. It goes by the values, rounded to bfloat16: the dtype in which
    they are loaded, and who keeps which layers in float32, makes no difference.

    Args:
        weights: as for `fingerprint`.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        values = weight.detach().flatten()
        sample = values[:: max(1, values.numel() // SAMPLED)].to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(weight: Tensor) -> tuple[float, ...]:
    """Evenly spread values, as short as tells float32 exactly."""
    values, count = weight.detach().flatten(), min(VALUES, weight.numel())
    places = torch.tensor([(2 * i + 1) * values.numel() // (2 * count) for i in range(count)], device=values.device)
    return tuple(float(f"{value:.9g}") for value in values[places].float().tolist())


def _explained(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Tensor:
    """Whether each pair may be two roundings of one number: not further apart than the coarser one's half step, and that of
    bfloat16, through which either may have gone before. a, b: a row for each tensor, the same number of values in both."""
    x, y = _padded(a), _padded(b)
    size = torch.maximum(x.abs(), y.abs())
    coarser = torch.maximum(_half_step(size, _grid(x)), _half_step(size, _grid(y)))
    bfloat16 = torch.full((len(x),), _GRIDS.index(torch.bfloat16), device="cpu")
    counts = torch.tensor([len(row) for row in a], device="cpu")
    return ((x - y).abs() <= coarser + _half_step(size, bfloat16))[torch.arange(x.shape[1], device="cpu") < counts[:, None]]


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Zeros, which every dtype holds, up to the longest row."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], device="cpu")


def _grid(rows: Tensor) -> Tensor:
    """What each row was rounded to, whatever it is stored in now: of `_GRIDS` the coarsest that holds all of it, or the last."""
    holds = torch.stack([(rows.to(dtype).float() == rows).all(1) for dtype in _GRIDS[:-1]])
    return torch.where(holds.any(0), holds.int().argmax(0), len(_GRIDS) - 1)


def _half_step(size: Tensor, grid: Tensor) -> Tensor:
    """Of rows of sizes, by the index of each row's dtype."""
    smallest = torch.tensor([torch.finfo(dtype).smallest_normal for dtype in _GRIDS], device="cpu")[grid, None]
    eps = torch.tensor([torch.finfo(dtype).eps for dtype in _GRIDS], device="cpu")[grid, None]
    return torch.maximum(size, smallest) * eps / 2
