"""A video's generation on paper: what was counted of a step, as often as its schedule has it, at the rates of a card.

Nothing here is measured. No efficiency is assumed: seconds are those of a card that computes at its peak.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from fastvideo_core.attention.sparse import BSASettings, SLASettings, VSASettings
from fastvideo_core.attention.sparse.sla import KEY_BLOCK, QUERY_BLOCK
from fastvideo_core.checks import part_of
from fastvideo_core.conditioning import TEXT_TOKENS
from fastvideo_core.guidance import BOTH
from fastvideo_core.schedule import Phase
from fastvideo_core.step_cache import DBCACHE_PRESETS, plan_magcache, ratio_table, recommended
from fastvideo_core.step_cache.dbcache_rule import DBCacheRule

from .cards import Card
from .paper_count import NOTHING, Counts, Work
from .paper_videos import Video, trained

GATE, FEW_STEPS = 0.5, 4
WorkOfStep = Callable[[Phase, int], Work]


class Seconds(NamedTuple):
    """products: of matrices and attention, or of reading and writing them where that takes longer; values: of all else, each
    operator by itself."""

    products: float
    values: float

    @property
    def total(self) -> float:
        return self.products + self.values


def seconds(work: Work, card: Card) -> Seconds:
    """At the roofline: Williams et al. 2009, "Roofline: an insightful visual performance model", for each of the two kinds."""
    return Seconds(max(work.flops / card.bf16, work.read / card.bandwidth), work.moved / card.bandwidth)


def kernel_flops(video: Video, settings: VSASettings | SLASettings | BSASettings) -> int:
    """Of the tiles that sparse attention visits, padding included, in all layers for one branch. What BSA visits depends on the
    values: all keys at the most."""
    _, _, frames, height, width = video.size.shape
    tokens = frames, height // 2, width // 2
    if isinstance(settings, SLASettings):
        queries, keys = (-(-math.prod(tokens) // block) for block in (QUERY_BLOCK, KEY_BLOCK))
    else:
        queries = keys = math.prod(-(-extent // part) for extent, part in zip(tokens, settings.tile, strict=True))
    visited = keys if isinstance(settings, BSASettings) else settings.kept(keys)
    pairs = queries * settings.widths[0] * visited * settings.widths[1]
    return 4 * pairs * video.row.dim * video.row.layers


def dense_flops(video: Video) -> int:
    """Of self-attention's two products, in all layers for one branch."""
    return 4 * video.tokens**2 * video.row.dim * video.row.layers


def cross_flops(video: Video, rows: int) -> int:
    """Of cross-attention's products to so many rows of text and to the image, in all layers for one branch."""
    return 4 * video.tokens * (rows + video.row.image_tokens) * video.row.dim * video.row.layers


def eight_bit_products(video: Video, counts: Counts, card: Card) -> float:
    """Seconds of a guided step of KSampler's, products alone, where linear layers multiply in 8 bits and attention does not."""
    attention = 2 * (dense_flops(video) + cross_flops(video, TEXT_TOKENS))
    return (counts["KSampler"].works[0].flops - attention) / card.fp8 + attention / card.bf16


def bsa_share(video: Video, counts: Counts) -> float:
    """Of the exact step's FLOPs, at the most; what chooses the tiles is not in it."""
    dense = counts["engine"].works[1].flops
    return 1 - 2 * (dense_flops(video) - kernel_flops(video, BSASettings())) / dense


def whole(video: Video, counts: Counts) -> dict[str, Work]:
    """Of a whole video, by way; the ways that follow the engine are on its network."""
    steps, alone = video.request.steps, counts["engine, one branch"].works
    few = alone[0] + alone[1].times(FEW_STEPS - 1)
    sparse = {name: _sparse(video, counts, name) for name in ("VSA", "SLA")}
    return {
        **{name: counts[name].works[0].times(steps) for name in ("diffusers", "KSampler", "FastVideo Sampler")},
        "exact": _exact(video, counts),
        "gate": _gated(video, counts),
        "MagCache": _magcache(video, counts),
        "DBCache": _dbcache(video, counts),
        **{name: guided for name, (guided, _) in sparse.items()},
        "4 steps": few,
        "4 steps, SLA": few + (sparse["SLA"][1] - alone[1]).times(FEW_STEPS),
    }


def _exact(video: Video, counts: Counts) -> Work:
    return _sum(video, lambda phase, step: counts["engine"].works[min(step - phase.start, 1)])


def _gated(video: Video, counts: Counts) -> Work:
    works, gate = counts["engine"].works, part_of(video.request.steps, GATE)
    return _sum(video, lambda phase, step: works[3] if step >= gate and step > phase.start else works[step > phase.start])


def _sum(video: Video, work: WorkOfStep) -> Work:
    total = NOTHING
    for phase in video.request.plan().phases:
        for step in phase.steps:
            total = total + work(phase, step)
    return total


def magcache_skips(video: Video) -> list[list[bool]]:
    """Of each phase, by step: as its authors set it, with the published ratios."""
    row, schedule = video.row, video.request.plan()
    table = ratio_table(
        (), (), [row], two_experts=row.two_experts, pixels=video.width * video.height, first_frame=False
    )  # fmt: skip
    plan = plan_magcache(schedule, table, recommended(table), joint=True)
    return [[decision.action == "skip" for decision in phase.decisions] for phase in plan.phases]


def dbcache_skips(video: Video) -> list[list[bool]]:
    """As preset auto would if no step ever differed from the one before: no video allows more."""
    schedule, found = video.request.plan(), []
    for phase in schedule.phases:
        rule = DBCacheRule(schedule, phase, DBCACHE_PRESETS["auto"])
        found.append([rule.decide(step, BOTH, lambda: 0.0).action == "skip" for step in phase.steps])
    return found


def _magcache(video: Video, counts: Counts) -> Work:
    first, following = counts["engine"].works[:2]
    kept, skip = counts["MagCache"].works
    return _cached(magcache_skips(video), kept, following + (kept - first), skip)


def _dbcache(video: Video, counts: Counts) -> Work:
    """A skipped step runs the first blocks; one of them was counted."""
    first, compute, skip = counts["DBCache"].works
    blocks, _ = DBCACHE_PRESETS["auto"].outer_blocks(video.row.layers)
    return _cached(dbcache_skips(video), first, compute, skip + counts["engine"].block[1].times(blocks - 1))


def _cached(phases: list[list[bool]], first: Work, compute: Work, skip: Work) -> Work:
    total = NOTHING
    for skips in phases:
        computed = len(skips) - sum(skips) - 1
        total = total + first + compute.times(computed) + skip.times(sum(skips))
    return total


def _sparse(video: Video, counts: Counts, name: str) -> tuple[Work, Work]:
    """Of a whole video with guidance, and of a step without."""
    kernel = Work(kernel_flops(video, trained(video)[name]), 0, 0)
    guided, alone = counts[name].works
    more = guided - counts["engine"].works[0] + kernel.times(2)
    return _exact(video, counts) + more.times(video.request.steps), alone + kernel
