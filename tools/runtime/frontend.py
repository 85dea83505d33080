"""ComfyUI's page as newer releases have it, in a folder of its own: the environment keeps the one that the pinned ComfyUI asks
for."""

import subprocess
import tempfile
from pathlib import Path

from tools.runtime.environment import pip
from tools.runtime.pins import NEWER_FRONTEND, Frontend, SetupError


def ensure_frontend(release: Frontend = NEWER_FRONTEND) -> Path:
    """Have it in its folder. Returns what ComfyUI's --front-end-root takes.

    Raises:
        SetupError: pip could not get it, or its hash is wrong.
    """
    if not release.folder.is_dir():
        print(f"Getting ComfyUI's frontend {release.version}", flush=True)
        release.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=release.folder.parent, prefix="partial-") as partial:
            unpacked = Path(partial) / "frontend"
            options = ["--no-deps", "--no-compile", "--require-hashes", "--target", str(unpacked)]
            command = pip(["install", *options, "-r", str(release.lock)])
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if run.returncode:
                raise SetupError(f"Getting ComfyUI's frontend {release.version} failed: {' '.join(command)}\n{run.stdout}")
            unpacked.rename(release.folder)
    return release.folder / "comfyui_frontend_package" / "static"
