"""What ranks do in tests: functions of their mesh and plain data."""

from threading import Event

import torch
from torch import Tensor

from fastvideo_core.parallel import Mesh, Ranks


def exchanged(mesh: Mesh, given: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each (parts, B, L, H, D): what a rank has of all tokens in its heads; of the last part, its own tokens on the way back,
    and all of them at the end."""
    return [_exchanged(mesh.tokens, x) for x in given]


def _exchanged(ranks: Ranks, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = x.shape[2]
    heads = ranks.to_heads([part[:, ranks.rows(total)] for part in x], total)
    back = ranks.to_tokens(heads[-1], total)
    return torch.stack(heads), back, ranks.gathered(back, total).contiguous()


def summed(mesh: Mesh, values: list[float]) -> Tensor:
    """Each rank gives its own value, and all give 1."""
    return mesh.everyone.sums(torch.tensor([values[mesh.everyone.rank], 1.0]))


def places(mesh: Mesh) -> list[tuple[int, int]]:
    """Place and size in each group."""
    return [(ranks.rank, ranks.size) for ranks in (mesh.everyone, mesh.tokens, mesh.branches, mesh.aside)]


def branches_swapped(mesh: Mesh) -> Tensor:
    return mesh.branches.gathered(torch.full((1, 1, 2), float(mesh.everyone.rank)), 2)


def alone(mesh: Mesh) -> bool:
    """Whether a group of one gives what it is given: the very tensors."""
    one, x = Ranks(), torch.ones(1, 3, 2, 4)
    return one.to_heads([x], 3)[0] is x and one.to_tokens(x, 3) is x and one.gathered(x, 3) is x and one.sums(x) is x


def failing(mesh: Mesh) -> None:
    """One rank fails and the other one waits for it."""
    if mesh.everyone.rank:
        raise ValueError("this rank fails")
    mesh.everyone.sums(torch.ones(1))


def waiting(mesh: Mesh) -> None:
    """One rank never comes."""
    if mesh.everyone.rank:
        Event().wait()
    mesh.everyone.sums(torch.ones(1))
