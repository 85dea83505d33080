"""What a run did, as data: a file for each part of it that reports, and `RunReport` with all of them."""

from .attention import AttentionReport
from .cache import CachePhaseReport, CacheReport
from .phases import PhaseReport, phase_reports, ran_as
from .run import RunReport
from .sparse import SparseReport
from .text import TextReport

__all__ = [
    "AttentionReport", "CachePhaseReport", "CacheReport", "PhaseReport", "RunReport", "SparseReport", "TextReport",
    "phase_reports", "ran_as",
]  # fmt: skip
