"""A rank that fails alone, while the others wait for it in an exchange."""

from typing import Any

import torch

from fastvideo_core import errors
from fastvideo_core.parallel import Mesh


class Failing:
    def __init__(self, mesh: Mesh, stop: Any) -> None:
        self.mesh = mesh

    def call(self, error: str, rank: int | None = None) -> float:
        """rank: of the one that fails, None for all. Returns how many there are."""
        if error and rank in (None, self.mesh.everyone.rank):
            raise getattr(errors, error)("too large")
        return float(self.mesh.everyone.sums(torch.ones(1))[0])
