"""The virtual environment: made once, filled from the locks, every file checked against its hash."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.runtime.pins import VENV, SetupError, existing_locks

STAMP = VENV / "installed-from-locks"


def python() -> Path:
    """The environment's interpreter."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_environment() -> None:
    """Make the environment what the locks say. Starting again after an interruption goes on where it stopped.

    Raises:
        SetupError: no lock for this Python and platform, or pip failed.
    """
    locks = existing_locks()
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == digest:
        return
    if not _has_pip():
        print(f"Creating the virtual environment {VENV}", flush=True)
        _create()
    print("Installing ComfyUI's requirements and the pack's (about 7 GB on disk; minutes)", flush=True)
    arguments = [part for lock in locks for part in ("-r", str(lock))]
    count = sum(len(lock.read_text().splitlines()) for lock in locks)
    pip_with_progress(["install", "--require-hashes", "--no-deps", *arguments], count)
    STAMP.write_text(digest)


def pip(arguments: Sequence[str], interpreter: Path | None = None) -> list[str]:
    """A pip command line. Indexes, certificates and caches are whatever the user's pip is configured with."""
    return [str(interpreter or python()), "-m", "pip", "--disable-pip-version-check", *arguments]


def pip_with_progress(arguments: Sequence[str], count: int) -> None:
    """Run pip, with one line for each of `count` packages in place of its own output.

    Raises:
        SetupError: with the end of pip's output.
    """
    lines: list[str] = []
    seen = 0
    with subprocess.Popen(pip(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            found = re.match(r"(?:Collecting|Requirement already satisfied:) (\S+)|Processing \S*?([^/\\]+)\.whl", line)
            if found:
                seen += 1
                print(f"  {seen}/{count} {found[1] or found[2]}", flush=True)
            elif line.startswith("Installing collected packages"):
                print("  unpacking", flush=True)
    if process.returncode:
        raise SetupError("pip failed:\n" + "".join(lines[-30:]) + "Run this again to go on where it stopped.")


def _create() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        raise SetupError(f"{' '.join(command)} failed (on Debian and Ubuntu: install python3-venv):\n{made.stdout}")


def _has_pip() -> bool:
    if not python().is_file():
        return False
    return subprocess.run(pip(["--version"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
