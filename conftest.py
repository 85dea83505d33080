"""Lets pytest run in a folder that is a ComfyUI pack.

The folder has an `__init__.py` that is for ComfyUI, and a `nodes/` that must never be found before ComfyUI's own `nodes`. So
the root goes last on `sys.path` and is collected as a plain folder. Test modules are imported by their path (two tiers may
have files of one name); modules that tests share lie in `tests/` or `tests/core/` and are imported by their plain name.
"""

import gc
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
LONGEST = [ROOT / "tests" / tier for tier in ("quality", "demo", "server")]
"""Tiers with files of few tests that take minutes."""

if __package__:
    # pytest has just imported the pack's `__init__.py` under the folder's name, maybe that of another module ("copy").
    del sys.modules[__package__]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.extend(str(folder) for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "core"))


class PackRootIsAFolder:
    """Collects the repository root as a plain folder, so that pytest does not import its `__init__.py` as a test package."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that processes side by side end at about the same time."""
    items.sort(key=lambda item: not any(item.path.is_relative_to(tier) for tier in LONGEST))


def pytest_collection_finish() -> None:
    """What is imported by now stays: a collection, of which a test may ask for many, has no need to look at it."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    # A hook in this file is not asked about the folder the file lies in; a plugin is.
    config.pluginmanager.register(PackRootIsAFolder(), "pack-root-is-a-folder")
