"""Attention backends: what can run, what was chosen and why, and that it computes the right thing."""

from .backends import AUTO_ORDER, BACKENDS, Backend
from .dense import Attend
from .probe import budget, exact_attention, faults, relative_error
from .requirements import MaskKind, Situation, mask_kind
from .select import Attention, Choice, prepare, survey

__all__ = [
    "AUTO_ORDER", "BACKENDS", "Attend", "Attention", "Backend", "Choice", "MaskKind", "Situation", "budget", "exact_attention",
    "faults", "mask_kind", "prepare", "relative_error", "survey",
]  # fmt: skip
