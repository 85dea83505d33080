"""The precision that training computes in."""

from __future__ import annotations

import torch


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has it. A CPU without it computes every value by way of float32, which takes up to a hundred
    times as long as float32 itself."""
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def half_precision(device: torch.device) -> torch.autocast:
    """Autocast to `training_dtype`."""
    dtype = training_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
