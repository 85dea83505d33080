"""Attention backends: what can run, what was chosen and why, and that it computes the right thing."""

from .account import AttentionAccount
from .backends import AUTO_ORDER, BACKENDS, Backend
from .compiling import apart
from .dense import Attend
from .exchange import attending
from .experts import AttendingExperts, AttentionSettings, takes_bias
from .folding import FoldedText, text_report
from .lean import is_as_made, lean_attention
from .probe import budget, exact_attention, faults, relative_error
from .requirements import MaskKind, Situation, mask_kind
from .select import Attention, Choice, beside_exact, impossible, prepare, survey

__all__ = [
    "AUTO_ORDER", "BACKENDS", "Attend", "AttendingExperts", "Attention", "AttentionAccount", "AttentionSettings", "Backend",
    "Choice", "FoldedText", "MaskKind", "Situation", "apart", "attending", "beside_exact", "budget", "exact_attention", "faults",
    "impossible", "is_as_made", "lean_attention", "mask_kind", "prepare", "relative_error", "survey", "takes_bias", "text_report",
]  # fmt: skip
