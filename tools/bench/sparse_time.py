"""What one call of sparse self-attention takes, beside the dense one."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from fastvideo_core.attention.sparse import Inputs, KernelName, SparseAttention, SparseSettings, kernel_of

from .sparse_ladder import TIMED, ladder, told

TOKENS = (12, 16, 24)
"""Whole tiles of every variant's own: partly filled ones cost as much as full ones."""
HEADS, HEAD_DIM = 2, 128
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """seconds, ratio: of the sparse call, and to the dense one beside it; medians."""

    variant: str
    setting: str
    kernel: KernelName
    density: float
    seconds: float
    ratio: float


@torch.no_grad()
def timings(
    tokens: tuple[int, int, int] = TOKENS, rounds: int = ROUNDS, kernels: Sequence[KernelName] = get_args(KernelName)
) -> list[Timing]:
    """Random q, k, v of one video, float32, on the CPU; for each setting dense and every kernel take turns. tokens: in time,
    height, width."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, tokens[0] * tokens[1] * tokens[2], HEADS, HEAD_DIM, generator=generator) for _ in range(3))
    inputs = Inputs(q, k, v)
    made = []
    for settings in ladder(TIMED):
        attentions = {name: settings.prepare(tokens, torch.device("cpu"), kernel_of(name)) for name in kernels}
        made += _of_setting(settings, inputs, attentions, rounds)
    return made


def _of_setting(
    settings: SparseSettings, inputs: Inputs, attentions: Mapping[KernelName, SparseAttention], rounds: int
) -> list[Timing]:
    densities = {name: float(attention(inputs).density) for name, attention in attentions.items()}  # compiles too
    q, k, v = (x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))
    dense, own = [], {name: [] for name in attentions}
    for _ in range(rounds):
        dense.append(_seconds(lambda: nn.functional.scaled_dot_product_attention(q, k, v)))
        for name, attention in attentions.items():
            own[name].append(_seconds(lambda attention=attention: attention(inputs)))
    return [
        Timing(
            variant=settings.name,
            setting=told(settings),
            kernel=name,
            density=densities[name],
            seconds=statistics.median(own[name]),
            ratio=statistics.median(a / b for a, b in zip(own[name], dense, strict=True)),
        )
        for name in attentions
    ]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
