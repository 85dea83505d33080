"""Several ranks, one process each, that work on the same calls of a network: how they divide them, what they exchange, and how
they stop. It knows no network; `wan/sharded.py`, and the hooks of a host, put it around theirs.

A rank of diffusers' networks is `wan.ranked.RankExperts`, made in a process that has `joined` the others. Its parent asks all of
them the same, in this order, and each of them answers:

    wan.sharded.check_guidance(layout, guidance), once and by the parent itself: whether all ranks have work in every call
    load(expert)
        open(PhaseOpening(...))            frozen data
            call(latents, sigma, branches) -> the velocities from the first rank, None from the others
            fits()                         -> whether both branches fit into one call, and why
        close()                            -> PhaseAccount of each rank; PhaseAccount.of_all is that of the phase
    offload()

`call` raises StoppedError on all ranks where one was told to stop. After another error the ranks that did not raise it wait for
the one that did: `Group` ends them all, at once where the memory of one is too small, and says which one it was.
"""

from .group import Group
from .layout import Layout, degrees, suggested
from .rank_host import Entry
from .ranks import Mesh, Ranks, joined
from .ray_ranks import Machines
from .stop import AgreedStop

__all__ = ["AgreedStop", "Entry", "Group", "Layout", "Machines", "Mesh", "Ranks", "degrees", "joined", "suggested"]
