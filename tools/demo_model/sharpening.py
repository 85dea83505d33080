"""A critic of clips' latents, against the blur that a mean squared error alone leaves where a student cannot follow its teacher.

It learns to tell rendered clips from the student's, by differences of one to the other (Jolicoeur-Martineau 2018,
arXiv:1807.00734), with its slope held small by finite differences (Lin et al. 2025, arXiv:2501.08316).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import softplus

CHANNELS = 64
NUDGE = 0.1
"""Standard deviation of the noise by which the slope is measured."""
SLOPE_WEIGHT = 0.5


class Critic(nn.Module):
    """One number for each place of a clip's latents (B, 16, 5, 8, 8): how much like a rendered clip it looks there."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(16, CHANNELS, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(CHANNELS, CHANNELS, (1, 3, 3), padding=(0, 1, 1)),
            nn.SiLU(),
            nn.Conv3d(CHANNELS, 1, 1),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)


def critic_loss(critic: Critic, made: torch.Tensor, rendered: torch.Tensor, nudge: torch.Tensor) -> torch.Tensor:
    """What the critic learns by; no gradient reaches `made`. nudge: standard normal noise like `rendered`."""
    real, fake = critic(rendered), critic(made.detach())
    slope = (critic(rendered + NUDGE * nudge) - real).square().mean() / NUDGE**2
    return softplus(fake - real).mean() + SLOPE_WEIGHT * slope


def sharper(critic: Critic, made: torch.Tensor, rendered: torch.Tensor) -> torch.Tensor:
    """The gradient with respect to `made` that makes it look more rendered; the critic gets none."""
    held = made.detach().requires_grad_(True)
    wanted = softplus(critic(rendered).detach() - critic(held)).mean()
    return torch.autograd.grad(wanted, held)[0]
