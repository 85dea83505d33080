"""Makes the locks of the running Python and platform: exact versions, the SHA-256 of each file, no address of any registry."""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tools.runtime.environment import pip
from tools.runtime.pins import LOCKS, NEWEST, SetupError, lock_files
from tools.runtime.source import download, unpack


def make_locks() -> None:
    """Resolve ComfyUI's requirements, then the pack's on top of exactly those, and write both locks."""
    comfyui_lock, pack_lock = lock_files()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        venv.create(work / "venv", with_pip=True)
        interpreter = work / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        unpack(download(NEWEST, work, [], interpreter), work / "tree")
        requirements = work / "tree" / "requirements.txt"
        base = _resolve(interpreter, requirements, LOCKS / "constraints.txt")
        _write(comfyui_lock, base)
        exact = work / "base.txt"
        exact.write_text("".join(f"{name}=={version}\n" for name, (version, _) in base.items()))
        everything = _resolve(interpreter, LOCKS / "pack.txt", exact)
        _write(pack_lock, {name: found for name, found in everything.items() if name not in base})


def _resolve(interpreter: Path, requirements: Path, constraints: Path) -> dict[str, tuple[str, str]]:
    """Return name -> (version, SHA-256) of what pip would install into an empty environment."""
    options = ["--dry-run", "--quiet", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
    command = pip(["install", *options, "-r", str(requirements), "-c", str(constraints)], interpreter)
    print(" ".join(command), flush=True)
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SetupError(f"pip could not resolve {requirements} under {constraints}; its reasons are above.")
    report = json.loads(run.stdout)
    return dict(sorted(_pin(package) for package in report["install"]))


def _pin(package: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    name, version = package["metadata"]["name"].lower().replace("_", "-"), package["metadata"]["version"]
    digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
    return name, (version, digest)


def _write(lock: Path, pins: dict[str, tuple[str, str]]) -> None:
    lock.write_text("".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, (version, digest) in pins.items()))
    print(f"{lock}: {len(pins)} packages", flush=True)
