"""Whether a generation fits into a card's memory, and what it would take."""

from dataclasses import replace
from functools import cache

import torch

from fastvideo_core.wan.memory import MARGIN
from tools.simulated.checkpoints import TrueSize

from .cards import GIB, Card
from .paper_count import Counts
from .paper_plan import seconds
from .paper_videos import Video

VISITING = 2
"""Blocks that are on the card where diffusers' group offloading brings the next one while one computes."""


def weight_bytes(video: Video) -> int:
    """Of one expert, as a checkpoint in bfloat16 has them in diffusers."""
    around, block = _bytes(replace(video.size, shape=()))
    return around + video.row.layers * block


def block_bytes(video: Video) -> int:
    return _bytes(replace(video.size, shape=()))[1]


@cache
def _bytes(size: TrueSize) -> tuple[int, int]:
    """Of the weights around the blocks, and of a block."""
    with torch.device("meta"):
        network = size.network(torch.bfloat16, layers=1)
    whole, block = (sum(weight.nbytes for weight in part.parameters()) for part in (network, network.blocks[0]))
    return whole - block, block


def how_it_fits(video: Video, counts: Counts, card: Card) -> str:
    """The first way that does, of those that cost more and more. Encoders and VAE are not there while it samples, nor is another
    expert."""
    room = card.memory / MARGIN
    both, one = counts["engine"].peak, counts["engine, one branch"].peak
    if both <= room:
        return "yes"
    if one <= room:
        return "a branch a call"
    weights = weight_bytes(video)
    if one - weights / 2 <= room:
        return f"8-bit weights, a branch a call ({(one - weights / 2) / GIB:.1f} GiB)"
    return f"offloaded block by block ({offloaded(video, one) / GIB:.1f} GiB), {brought(video, counts, card)}"


def offloaded(video: Video, peak: int) -> int:
    """With group offloading."""
    return peak - (video.row.layers - VISITING) * block_bytes(video)


def brought(video: Video, counts: Counts, card: Card) -> str:
    """Beside the time that a call computes, in which its weights come."""
    come, computed = weight_bytes(video) / card.pcie, seconds(counts["engine, one branch"].works[1], card).total
    return f"weights come in {come:.2f} s of a call's {computed:.2f}"
