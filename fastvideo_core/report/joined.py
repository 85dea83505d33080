"""One report of a run that was made in several parts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from .attention import AttentionReport
from .phases import PhaseReport
from .run import RunReport

Row = TypeVar("Row")


def joined(parts: Sequence[RunReport]) -> RunReport:
    """Of all parts in their order, each of which went on between two phases where the one before had stopped.
    networks: the most of one part, for they do not tell which."""
    guided = [part for part in parts if part.guidance_mode != "off"] or parts[:1]
    return replace(
        parts[0],
        guidance_mode=", then ".join(dict.fromkeys(part.guidance_mode for part in guided)),
        guidance_reason=guided[0].guidance_reason,
        phases=tuple(_phase(rows) for rows in zip(*(part.phases for part in parts), strict=True)),
        step_seconds=tuple(seconds for part in parts for seconds in part.step_seconds),
        total_seconds=sum(part.total_seconds for part in parts),
        peak_memory_bytes=max((part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None), default=None),
        notes=distinct([note for part in parts for note in part.notes]),
        caches=distinct([cache for part in parts for cache in part.caches if cache.phases or cache.bypassed or cache.aside]),
        attention=summed_attention([row for part in parts for row in part.attention]),
        sparse=tuple(row for part in parts for row in part.sparse if row.sparse_calls or row.dense_calls),
        texts=distinct([row for part in parts for row in part.texts]),
        patches=distinct([name for part in parts for name in part.patches]),
        networks=max(part.networks for part in parts),
        moves=sum(part.moves for part in parts),
    )


def distinct(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Each once."""
    return tuple(row for place, row in enumerate(rows) if row not in rows[:place])


def _phase(rows: Sequence[PhaseReport]) -> PhaseReport:
    """Of one phase, in which one of the parts made the calls."""
    calls = sum((Counter(row.calls) for row in rows), Counter[str]())
    return replace(rows[0], calls=dict(sorted(calls.items())), reused_negative=sum(row.reused_negative for row in rows))


def summed_attention(rows: Sequence[AttentionReport]) -> tuple[AttentionReport, ...]:
    """One per expert and part of attention, with the calls of all."""
    found: dict[tuple[str, str], AttentionReport] = {}
    for row in rows:
        before = found.get((row.expert, row.part))
        found[row.expert, row.part] = row if before is None else replace(
            before,
            calls=before.calls + row.calls,
            network_calls=before.network_calls + row.network_calls,
            exact_calls=before.exact_calls + row.exact_calls,
        )  # fmt: skip
    return tuple(found.values())
