"""Weights that stay in main memory and visit the device block by block: for a network larger than the device's memory."""

from typing import TYPE_CHECKING

import torch

from ...checks import whole
from ...errors import RequestError
from ..at_work import check_idle
from ..placement import is_group_offloaded

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


def group_offload(transformer: "WanTransformer3DModel", device: torch.device | str, blocks_per_group: int) -> None:
    """Diffusers' block-level group offloading: the outputs stay the same, only a group of blocks at a time is on `device`.

    On CUDA and with single blocks the next block is copied on a stream of its own while one computes (so two are there);
    diffusers does that for single blocks only, larger groups are copied between computations.

    Args:
        blocks_per_group: blocks that are moved together, 1 or more.

    Raises:
        RequestError: the group size is impossible, or the transformer is offloaded already or at work.
    """
    whole("blocks_per_group", blocks_per_group, "a group is 1 block or more.", least=1)
    device = torch.device(device)
    check_idle(transformer, "Group offloading was asked for")
    if is_group_offloaded(transformer):
        raise RequestError("This transformer is group-offloaded already. Load it again to offload it in another way.")
    transformer.enable_group_offload(
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=blocks_per_group,
        use_stream=device.type == "cuda" and blocks_per_group == 1,
    )
