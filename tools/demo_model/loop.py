"""One resumable training stage: optimizer, learning rate, moving average of the weights, checkpoints, progress."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .optimizer import MuonAdam

CHECKPOINT_SECONDS = 60
LOG_STEPS = 25
JUDGED_STEPS = 400


@dataclass(frozen=True)
class Stage:
    """How long and how fast to train.

    The learning rate falls from `rate` to `final * rate`; `average` is the decay of the weights' moving average.
    """

    name: str
    steps: int
    batch: int
    rate: float
    warmup: int = 50
    final: float = 0.05
    average: float = 0.995


@dataclass
class Best:
    """The averaged weights that scored highest so far."""

    score: float
    weights: list[torch.Tensor]


def train_stage(
    stage: Stage,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    folder: Path,
    judged: Callable[[], float] | None = None,
) -> None:
    """Trains `model` in place from its checkpoint in `folder`, or from where it stands, and leaves the averaged weights in it.

    `loss(step)` must depend on the step and the weights alone, so that an interrupted stage continues as if it had not been.
    `judged()` scores the model every `JUDGED_STEPS` steps and at the end; the averaged weights of the highest score are left.
    """
    path = folder / f"{stage.name}.pt"
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = MuonAdam(model, stage.rate)
    average = [p.detach().clone() for p in weights]
    best = Best(-math.inf, [mean.clone() for mean in average])
    step = _restore(path, model, optimizer, average, best)
    saved = shown = time.monotonic()
    while step < stage.steps:
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _schedule(step, stage)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        decay = min(stage.average, step / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in weights], 1 - decay)
        if judged is not None and (step % JUDGED_STEPS == 0 or step == stage.steps):
            _keep_best(best, f"{stage.name} {step}/{stage.steps}", judged, weights, average)
        now = time.monotonic()
        if step % LOG_STEPS == 0:
            pace, shown = (now - shown) / LOG_STEPS, now
            print(f"{stage.name} {step}/{stage.steps} loss {value.item():.5f} {pace:.2f} s/step", flush=True)
        if now - saved > CHECKPOINT_SECONDS or step == stage.steps:
            saved = now
            _save(path, step, model, optimizer, average, best)
    _set(weights, average if judged is None else best.weights)


@torch.no_grad()
def _keep_best(
    best: Best, label: str, judged: Callable[[], float], weights: list[nn.Parameter], average: list[torch.Tensor]
) -> None:
    trained = [weight.detach().clone() for weight in weights]
    _set(weights, average)
    score = judged()
    _set(weights, trained)
    print(f"{label} judged {score:.4f}, best so far {max(score, best.score):.4f}", flush=True)
    if score >= best.score:  # of equals the one that trained longer
        best.score = score
        torch._foreach_copy_(best.weights, average)


@torch.no_grad()
def _set(weights: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _schedule(step: int, stage: Stage) -> float:
    warm = min(1.0, (step + 1) / stage.warmup)
    return warm * (stage.final + (1 - stage.final) * 0.5 * (1 + math.cos(math.pi * step / stage.steps)))


def _save(
    path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, average: list[torch.Tensor], best: Best
) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
    state |= {"score": best.score, "best": best.weights}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: list[torch.Tensor], best: Best) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location=average[0].device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch._foreach_copy_(average, state["average"])
    torch._foreach_copy_(best.weights, state["best"])
    best.score = state["score"]
    return state["step"]
