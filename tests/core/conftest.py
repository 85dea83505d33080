"""The engine's tests run tiny networks, for which more than one thread is slower."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
