"""What a run did, as data: a file for each part of it that reports, and `RunReport` with all of them."""

from .attention import AttentionReport
from .cache import CachePhaseReport, CacheReport
from .contribution import Contribution
from .faster import faster
from .joined import distinct, joined, summed_attention
from .phases import PhaseReport, phase_reports, ran_as
from .run import VERSION, RunReport
from .sparse import SparseReport, of_all_ranks, share_computed
from .text import TextReport

__all__ = [
    "VERSION",
    "AttentionReport",
    "CachePhaseReport",
    "CacheReport",
    "Contribution",
    "PhaseReport",
    "RunReport",
    "SparseReport",
    "TextReport",
    "distinct",
    "faster",
    "joined",
    "of_all_ranks",
    "phase_reports",
    "ran_as",
    "share_computed",
    "summed_attention",
]  # fmt: skip
