"""How the ranks of one group divide a call of the network: arithmetic alone.

Ulysses (Jacobs et al. 2023, arXiv 2309.14509) gives each rank some of the tokens, and in self-attention some of the heads.
CFG-parallel gives each half of the ranks one branch of guidance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..checks import whole
from ..errors import RequestError
from ..guidance import BOTH, Branch


@dataclass(frozen=True)
class Layout:
    """cfg: 2 where each half of the ranks computes one branch of guidance, else 1. ulysses: how many ranks share the tokens of
    a call. Rank r computes for branch r // ulysses and has part r % ulysses of the tokens, so neighbours share tokens."""

    cfg: int = 1
    ulysses: int = 1

    def __post_init__(self) -> None:
        whole("cfg", self.cfg, "it is 1, or 2 for a half of the ranks to each branch of guidance.", least=1)
        whole("ulysses", self.ulysses, "it counts the ranks that share the tokens of a call, 1 or more.", least=1)
        if self.cfg > len(BOTH):
            raise RequestError(f"cfg is {self.cfg}: guidance has two branches. Use 1 or 2, and more ranks for ulysses.")

    @property
    def ranks(self) -> int:
        return self.cfg * self.ulysses

    def branch(self, rank: int) -> Branch:
        """Of the two, the one that a rank computes where cfg is 2."""
        return BOTH[rank // self.ulysses]

    @property
    def sharing_tokens(self) -> list[list[int]]:
        """The ranks that share the tokens of one call, in the order of their tokens; one list for each branch."""
        return [[half * self.ulysses + part for part in range(self.ulysses)] for half in range(self.cfg)]

    @property
    def sharing_rows(self) -> list[list[int]]:
        """The ranks that have the same part of the tokens, in the order of their branches."""
        return [[half * self.ulysses + part for half in range(self.cfg)] for part in range(self.ulysses)]

    def check(self, heads: int) -> None:
        """Raises RequestError where the network's heads of attention cannot be divided so."""
        if heads % self.ulysses:
            raise RequestError(
                f"The tokens were to be shared by {self.ulysses} ranks, and the network's {heads} heads of attention are not "
                f"divisible by that. Use one of {', '.join(map(str, degrees(heads)))}."
            )

    def unguided(self, heads: int) -> "Layout":
        """Of the same ranks in a phase without guidance, which has one branch: all of them share its tokens where the heads allow
        that; where they do not, the layout of each half, which computes the same as the other one."""
        return Layout(1, self.ranks if heads % self.ranks == 0 else self.ulysses)

    def text(self) -> str:
        return f"cfg {self.cfg} x ulysses {self.ulysses}"


def degrees(heads: int) -> list[int]:
    """How many ranks can share the tokens of a network with so many heads of attention."""
    return [count for count in range(1, heads + 1) if heads % count == 0]


def suggested(gpus: int, heads: int, machines: int = 1, guided: bool = True) -> Layout:
    """The layout of one group. Ulysses stays within a machine, for it exchanges the tokens twice in each block; the branches of
    guidance are exchanged once a step, over any network. GPUs that are left over make groups of their own.

    Args:
        gpus: of all machines, as many on each.
        guided: whether guidance runs both branches in every step.
    """
    whole("gpus", gpus, "it counts the GPUs of all machines.", least=1)
    whole("machines", machines, "it counts the machines that have the GPUs.", least=1)
    if gpus % machines:
        raise RequestError(f"{gpus} GPUs on {machines} machines: a layout needs as many on each. Use fewer of them.")
    cfg = len(BOTH) if guided and gpus >= len(BOTH) else 1
    together = gpus // machines if machines >= cfg else gpus // cfg
    return Layout(cfg, max(count for count in degrees(heads) if count <= together))


def shares(total: int, size: int) -> Sequence[int]:
    """How many of `total` rows each of `size` ranks has: equal but for one, the longer shares first. So nobody is asked."""
    return [total // size + (rank < total % size) for rank in range(size)]


def rows(total: int, size: int, rank: int) -> slice:
    """Those of a rank.

    Raises:
        RequestError: a rank would have none.
    """
    if total < size:
        raise RequestError(f"{size} ranks were to share {total} tokens, and each needs one or more. Use fewer ranks.")
    first = rank * (total // size) + min(rank, total % size)
    return slice(first, first + shares(total, size)[rank])
