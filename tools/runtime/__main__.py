"""Command line of the runtime; see the package's docstring."""

import argparse
import os
import shutil
import subprocess
import sys

from tools.runtime.environment import ensure_environment, python
from tools.runtime.lock import make_locks
from tools.runtime.pins import NEWEST, OLDEST, ROOT, RUNTIME, VENV, SetupError
from tools.runtime.source import ensure_tree

CACHES = (".pytest_cache", ".ruff_cache", ".mypy_cache")


def setup() -> None:
    ensure_environment()
    ensure_tree(NEWEST)
    ensure_tree(OLDEST)


def run(arguments: list[str]) -> int:
    """Run the environment's Python with COMFYUI_PATH set to the pinned ComfyUI, unless the caller has set another."""
    setup()
    environment = {"COMFYUI_PATH": str(NEWEST.tree), **os.environ}
    command = [str(python()), *arguments]
    os.chdir(ROOT)
    sys.stdout.flush()
    if os.name == "posix":
        # In place of this process: Ctrl-C and SIGTERM go straight to the program.
        os.execve(command[0], command, environment)
    with subprocess.Popen(command, env=environment) as program:
        while True:
            try:
                return program.wait()
            except KeyboardInterrupt:
                continue  # the program got it too, and ends when it has cleaned up


def clean() -> None:
    for folder in (VENV, RUNTIME, *(ROOT / name for name in CACHES)):
        if folder.exists():
            print(f"Removing {folder}")
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.runtime")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="create what is missing of the environment and the ComfyUI trees")
    commands.add_parser("clean", help="remove everything that setup made")
    commands.add_parser("lock", help="make the locks of this Python and platform")
    program = commands.add_parser("run", help="setup, then run the environment's Python")
    program.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the Python interpreter")
    given = parser.parse_args()
    try:
        if given.command == "run":
            return run(given.arguments)
        {"setup": setup, "clean": clean, "lock": make_locks}[given.command]()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
