"""Cases as lines of JSON, so that a long part that is stopped goes on where it was."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .case import Case


@dataclass(frozen=True)
class Journal:
    """file: made with its first case."""

    file: Path

    def cases(self) -> list[Case]:
        """Those that it has, by their numbers."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        return sorted((Case(**json.loads(line)) for line in lines), key=lambda case: case.number)

    def left(self, count: int) -> list[int]:
        made = {case.number for case in self.cases()}
        return [number for number in range(count) if number not in made]

    def keep(self, cases: Iterator[Case]) -> Iterator[Case]:
        """Each as it comes, written."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for case in cases:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(asdict(case), ensure_ascii=False)}\n")
            yield case
