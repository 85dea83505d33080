"""Where a network's weights are while it works."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def placed(network: nn.Module, device: torch.device, offload_device: torch.device) -> Iterator[None]:
    """`network` on `device`; afterwards, also on interrupt, on `offload_device`."""
    network.to(device)
    try:
        yield
    finally:
        network.to(offload_device)
