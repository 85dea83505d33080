"""What those who take part in a run have for its report."""

from dataclasses import dataclass

from .attention import AttentionReport
from .cache import CacheReport
from .sparse import SparseReport
from .text import TextReport


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Of one who took part: the rows of `RunReport` that it knows of; `+` joins those of several in their order."""

    caches: tuple[CacheReport, ...] = ()
    attention: tuple[AttentionReport, ...] = ()
    texts: tuple[TextReport, ...] = ()
    sparse: tuple[SparseReport, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Contribution") -> "Contribution":
        return Contribution(
            caches=self.caches + other.caches,
            attention=self.attention + other.attention,
            texts=self.texts + other.texts,
            sparse=self.sparse + other.sparse,
            notes=self.notes + other.notes,
        )

    def lines(self) -> list[str]:
        """As a person reads it."""
        attention = (line for row in self.attention for line in row.lines())
        texts, sparse = (row.line() for row in self.texts), (row.line() for row in self.sparse)
        caches = (line for row in self.caches for line in row.lines())
        return [*attention, *texts, *sparse, *caches, *self.notes]
