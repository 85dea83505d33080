"""Many prompts through one server: what its process holds, and whether that grows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt

from tools.comfy_server import ComfyServer

from .answers import answer
from .case import Case, Place
from .interrupts import seeded
from .mutations import Prompt
from .servers import demo_server, held
from .shipped import DEMOS, own, shipped

COUNT = 300
LONG = ("demo_auto_tune",)
"""Which makes many generations."""
WARM = 60
"""Prompts before the first that counts: what each kind of work needs once is there then."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """All through one server."""
    with demo_server(place.tree, place.base) as server:
        yield from on(server, {name: shipped(name) for name in DEMOS if name not in LONG} | dict(own()), numbers)


def on(server: ComfyServer, prompts: Mapping[str, Prompt], numbers: Sequence[int]) -> Iterator[Case]:
    """In turn, none twice with one seed. ComfyUI's history is emptied after each: it keeps the last ten thousand, which is no
    leak and grows."""
    for number in numbers:
        name = list(prompts)[number % len(prompts)]
        given = answer(server, seeded(prompts[name], number + 1))
        server.request("/history", {"clear": True})
        fault = "" if given.kind == "ran" else f"{given.kind}: {given.words}"
        yield Case(number=number, what=name, answer=given.kind, fault=fault, figures=asdict(held(server)))


@dataclass(frozen=True)
class Slope:
    """Of a straight line through figures in a row, by least squares. error: the standard error, of independent figures."""

    value: float
    error: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Slope":
        count = len(figures)
        middle, mean = (count - 1) / 2, sum(figures) / count
        spread = sum((index - middle) ** 2 for index in range(count))
        slope = sum((index - middle) * (figure - mean) for index, figure in enumerate(figures)) / spread
        rest = sum((figure - mean - slope * (index - middle)) ** 2 for index, figure in enumerate(figures))
        return cls(slope, sqrt(rest / (count - 2) / spread))
