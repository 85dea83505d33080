"""Attention backends: what can run, what was chosen and why, and that it computes the right thing."""

from .account import AttentionAccount
from .backends import AUTO_ORDER, BACKENDS, Backend
from .dense import Attend
from .experts import AttendingExperts, AttentionSettings
from .probe import budget, exact_attention, faults, relative_error
from .processors import attending
from .requirements import MaskKind, Situation, mask_kind
from .select import Attention, Choice, prepare, survey

__all__ = [
    "AUTO_ORDER", "BACKENDS", "Attend", "AttendingExperts", "Attention", "AttentionAccount", "AttentionSettings", "Backend",
    "Choice", "MaskKind", "Situation", "attending", "budget", "exact_attention", "faults", "mask_kind", "prepare",
    "relative_error", "survey",
]  # fmt: skip
