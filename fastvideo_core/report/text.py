"""How cross-attention read the text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """How cross-attention of one expert read the texts that have `rows` rows.

    read: how many it computed with, the same number where the zero rows were not folded. why: they were not. keys_kept: keys and
    values were computed once per phase.
    """

    expert: str
    rows: int
    read: int
    why: str
    keys_kept: bool

    def line(self) -> str:
        """As a person reads it."""
        head = f"text of the {self.expert.replace('_', '-')} expert: "
        if self.read == self.rows:
            return f"{head}all {self.rows} rows read ({self.why})"
        return f"{head}{self.rows} rows folded into {self.read}" + ", keys and values kept over the steps" * self.keys_kept
