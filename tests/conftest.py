"""The two hosts that tests run in: ComfyUI inside this process (`comfy`), and a real headless server (`comfy_server`).

tests/core uses neither and runs with no ComfyUI at all.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.comfy_in_process import ComfyInProcess
from tools.comfy_server import ComfyServer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests of a process, which reads it once; the user's own is let be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path_factory.mktemp("ray") / "token"))
        yield


@pytest.fixture(scope="session")
def comfyui_tree() -> Path:
    """The ComfyUI to test against: COMFYUI_PATH, which the make targets set."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("This test needs ComfyUI: run it through `make test`, or set COMFYUI_PATH to a ComfyUI folder.")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def comfy(comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> ComfyInProcess:
    """ComfyUI in this process with the pack loaded, one for the session: `comfy.reset()` drops cached outputs."""
    host = ComfyInProcess(comfyui_tree, tmp_path_factory.mktemp("comfyui"))
    host.load_pack(ROOT)
    gc.collect()
    gc.freeze()  # as the root's conftest.py
    return host


@pytest.fixture(scope="session")
def comfy_server(comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A real headless server with the pack in its custom_nodes, in its own folder, on a free port."""
    with ComfyServer(comfyui_tree, tmp_path_factory.mktemp("server")) as server:
        yield server
