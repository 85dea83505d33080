"""`python -m tools.demo_model.calibrate`: writes the ratio tables of the shipped demo models beside them.

To be run after every training: a table is named by the weights that it was measured on, and those of other weights go.
"""

from __future__ import annotations

import torch

from fastvideo_core.step_cache import RatioTable, calibrate
from fastvideo_core.wan.demo import FOLDER

from .engine import KINDS, DemoEngine, demo_engine

STEPS = 40
CLIPS = 4
"""In one batch, whose mean a table holds: one clip's ratios jitter by as much as they fall per step."""
FIRST_PROMPT = 500
"""Prompts and seeds that no gate, benchmark or model card uses."""


def measured(demo: DemoEngine) -> RatioTable:
    """The ratio table of one demo model."""
    batch = demo.batch(CLIPS, FIRST_PROMPT)
    return calibrate(demo.request(STEPS), demo.experts(batch), batch.conditioning, batch.noise)


def main() -> None:
    torch.set_num_threads(1)
    tables = [measured(demo_engine(kind)) for kind in KINDS]
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for kind, table in zip(KINDS, tables, strict=True):
        (FOLDER / f"{table.name}.json").write_text(table.json() + "\n", encoding="utf-8")
        print(f"{kind}: {table.name}.json")


if __name__ == "__main__":
    main()
