"""Inputs of nodes that make many videos: one each, or one for all."""

from collections.abc import Sequence
from typing import Any

from fastvideo_core import RequestError


def one(name: str, values: Sequence[Any]) -> Any:
    """Of an input that there is one of. Raises RequestError where a list came."""
    if len(values) > 1:
        raise RequestError(
            f"The {name} input got a list of {len(values)}, and there is one for all videos. Connect a single one."
        )
    return values[0]


def rows(**lists: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One for each video. Raises RequestError where the lists are of unequal lengths."""
    count = max(map(len, lists.values()))
    short = [name for name, values in lists.items() if len(values) not in (1, count)]
    if short:
        told = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        raise RequestError(f"The lists are of unequal lengths: {told}. Give each {count}, or one for all.")
    each = [values if len(values) == count else [values[0]] * count for values in lists.values()]
    return list(zip(*each, strict=True))
