"""A case: one thing done to a server, and how it answered."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Case:
    """number: of its part, from 0; what was done; answer: a word, by which cases are counted; words: of the answer; fault: what
    should not be, empty where all is well; figures: measured, by name."""

    number: int
    what: str
    answer: str
    words: str = ""
    fault: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """tree: the ComfyUI; base: a folder for servers; seed: of everything that is by chance."""

    tree: Path
    base: Path
    seed: int

    def chance(self, part: str, number: int) -> random.Random:
        """The same for a case, whichever others are made."""
        return random.Random(f"{part} {self.seed} {number}")


class Part(Protocol):
    """A module of a part."""

    COUNT: int

    @staticmethod
    def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]: ...
