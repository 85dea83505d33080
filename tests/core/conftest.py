"""The engine's tests run tiny networks, for which more than one thread is slower."""

from collections.abc import Iterator

import pytest
import torch
from rank_group import RankGroup


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    """Four of them at the most, which start when a test first needs them."""
    group = RankGroup(tmp_path_factory.mktemp("ranks"), ["sharded_runs"])
    try:
        yield group
    finally:
        group.close()
