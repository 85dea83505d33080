"""Teaches the text encoder what captions say before it meets the transformer: every row must tell all four attributes.

A head start only: from there on the encoder trains with the text-to-video transformer.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .captions import caption
from .loop import Stage, train_stage
from .text import TEXT_DIM, PromptEncoder
from .world import BACKGROUND_COLOURS, MOTIONS, OBJECT_COLOURS, SHAPES, combinations

READING = Stage("text", steps=250, batch=48, rate=2e-3)
ATTRIBUTES = (SHAPES, tuple(OBJECT_COLOURS), tuple(BACKGROUND_COLOURS), MOTIONS)  # in the order of a combination


class Reader(nn.Module):
    """The text encoder with one linear head per attribute."""

    def __init__(self, prompts: PromptEncoder) -> None:
        super().__init__()
        self.prompts = prompts
        self.heads = nn.ModuleList(nn.Linear(TEXT_DIM, len(values)) for values in ATTRIBUTES)


def train_text(prompts: PromptEncoder, folder: Path, seed: int) -> None:
    """Trains `prompts` in place; the heads are dropped."""
    reader = Reader(prompts).to(prompts.encoder.device)
    train_stage(READING, reader, lambda step: reading_loss(reader, step, seed), folder)


def reading_loss(reader: Reader, step: int, seed: int) -> torch.Tensor:
    """Mean cross-entropy of the attributes read from each row of a batch of captions."""
    rng = random.Random(f"{seed} {READING.name} {step}")
    said = [rng.choice(combinations(held_out=False)) for _ in range(READING.batch)]
    rows = reader.prompts([caption(combination, rng) for combination in said])
    clip, row = rows.abs().sum(-1).nonzero(as_tuple=True)  # the captions' own rows; the others are zero
    losses = []
    for attribute, (head, values) in enumerate(zip(reader.heads, ATTRIBUTES, strict=True)):
        target = torch.tensor([values.index(combination[attribute]) for combination in said], device=rows.device)
        losses.append(F.cross_entropy(head(rows[clip, row]), target[clip]))
    return torch.stack(losses).mean()
