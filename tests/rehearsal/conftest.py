"""Both doors at the true sizes of Wan's checkpoints, on a GPU that is not there (tools/simulated)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tools.comfy_in_process import ComfyInProcess

for folder in (Path(__file__).resolve().parent, Path(__file__).resolve().parents[1] / "nodes"):
    sys.path.append(str(folder))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def host(comfy: ComfyInProcess) -> Iterator[ComfyInProcess]:
    """For calls of nodes outside a prompt: without progress, which belongs to one, and without inference mode, in which operators
    come whole that are counted by their parts."""
    from comfy import utils

    hook = utils.PROGRESS_BAR_HOOK
    utils.set_progress_bar_global_hook(None)
    with torch.no_grad():
        yield comfy
    utils.set_progress_bar_global_hook(hook)
