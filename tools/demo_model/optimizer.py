"""Muon for the matrices, Adam for the rest: on these small models about half the steps of Adam alone.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
orthogonal matrix, found by five Newton-Schulz iterations. The factor 0.2 sqrt(max(rows, columns)) (Liu et al., 2025,
arXiv:2502.16982) gives its updates the size of Adam's, so that both share one learning rate.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from .precision import training_dtype

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients from Jordan et al.
MOMENTUM, ADAM_BETAS, DECAY = 0.95, (0.9, 0.99), 1e-3
ENDS = ("conv_in", "conv_out", "quant_conv", "patch_embedding", "proj_out", "shared", "embed_tokens", "relative")


class MuonAdam(torch.optim.Optimizer):
    """One optimizer for a whole model; the group `matrices` follows Muon, the group `others` Adam."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if _is_matrix(name, p)]
        others = [p for name, p in trained if not _is_matrix(name, p)]
        groups = [{"params": matrices, "matrices": True}, {"params": others, "matrices": False}]
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            updates = self._orthogonal(trained) if group["matrices"] else [self._adam(one) for one in trained]
            for parameter, update in zip(trained, updates, strict=True):
                parameter.mul_(1 - group["lr"] * DECAY).add_(update, alpha=-group["lr"])

    def _orthogonal(self, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        """Muon's updates; matrices of one shape go through the iterations together, which is faster."""
        directions = [self._nesterov(parameter).flatten(1) for parameter in parameters]
        places = defaultdict(list)
        for place, direction in enumerate(directions):
            places[direction.shape].append(place)
        for shape, alike in places.items():
            stack = orthogonalized(torch.stack([directions[place] for place in alike])).mul_(0.2 * max(shape) ** 0.5)
            for place, direction in zip(alike, stack, strict=True):
                directions[place] = direction
        return [direction.view_as(parameter) for direction, parameter in zip(directions, parameters, strict=True)]

    def _nesterov(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)

    def _adam(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        step = state["step"] = state.get("step", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        square = state.setdefault("square", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - ADAM_BETAS[0])
        square.lerp_(parameter.grad.square(), 1 - ADAM_BETAS[1])
        spread = (square / (1 - ADAM_BETAS[1] ** step)).sqrt_().add_(1e-8)
        return mean / (1 - ADAM_BETAS[0] ** step) / spread


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    wide = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 16
    return wide and "table" not in name and not any(end in name for end in ENDS)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """About the nearest orthogonal matrix of each of `matrices` (..., rows, columns), in their dtype."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(training_dtype(matrices.device))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
