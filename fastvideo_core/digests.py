"""What tells tensors apart: digests by which a saved generation knows its weights and its conditioning again."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLED = 256
"""Values of each weight that are looked at, at least, evenly spread: all of them would be tens of gigabytes, and a changed weight
changes nearly all of its values."""


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal of names, dtypes, shapes and `SAMPLED` values of each. It is exact: the same checkpoint in another
    precision is another one, for it computes other values.

    Args:
        tensors: a network's weights by name, before LoRAs; packed ones as they are stored.
    """
    return _digest(tensors, SAMPLED)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The same of all values. It waits for their device."""
    return _digest(tensors, None)


def _digest(tensors: Mapping[str, Tensor], sampled: int | None) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().flatten()
        if sampled is not None:
            values = values[:: max(1, values.numel() // sampled)]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(values.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
