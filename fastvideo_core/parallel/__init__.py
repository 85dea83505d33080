"""Several ranks, one process each, that work on the same call of a network."""

from .layout import Layout, degrees, suggested
from .ranks import Mesh, Ranks, joined

__all__ = ["Layout", "Mesh", "Ranks", "degrees", "joined", "suggested"]
