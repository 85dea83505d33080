"""Quality gates: what an accelerator does to the videos of the trained demo model."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small gain little from a second one, and lose much where other programs want it too."""
    torch.set_num_threads(1)
