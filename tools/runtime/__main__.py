"""Command line of the runtime; see the package's docstring."""

import os
import shutil
import subprocess
import sys

import tools.runtime
from tools.runtime.environment import ensure_environment, python
from tools.runtime.frontend import ensure_frontend
from tools.runtime.lock import make_locks
from tools.runtime.pins import NEWEST, RELEASES, ROOT, RUNTIME, VENV, SetupError
from tools.runtime.source import ensure_tree

CACHES = (".pytest_cache", ".ruff_cache", ".mypy_cache")


def setup() -> None:
    ensure_environment()
    for release in RELEASES:
        ensure_tree(release)
    ensure_frontend()


def run(arguments: list[str]) -> int:
    """Run the environment's Python with COMFYUI_PATH set to the pinned ComfyUI, unless the caller has set another.

    Threads that wait for others give their core away: where another program uses one of two cores, the demo takes 16 s so, and
    134 s with OpenMP's waiting in a loop.
    """
    setup()
    environment = {"COMFYUI_PATH": str(NEWEST.tree), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
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
    command, *arguments = sys.argv[1:] or ["--help"]
    commands = {"setup": setup, "clean": clean, "lock": make_locks}
    try:
        if command == "run" and arguments:
            return run(arguments)
        if command in commands and not arguments:
            commands[command]()
            return 0
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run it again to go on from here.", file=sys.stderr)
        return 130
    print(tools.runtime.__doc__)
    return 0 if command == "--help" else 2


if __name__ == "__main__":
    sys.exit(main())
