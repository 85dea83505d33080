"""Lint and tests: `python -m tools.runtime run -m tools.check test|compat|lint [arguments for pytest]`.

Every step runs even if an earlier one failed; the exit status is 0 only if all passed.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools.runtime.pins import RELEASES

COMPAT_TESTS = ("tests/nodes", "tests/server")
# Two processes, each with a ComfyUI, a server and folders of its own; a file's tests stay together, for its fixtures do. Files
# come in the order of conftest.py, and not by how many tests they have.
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "20")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # for each process, and for the servers that they start
    "TORCH_WARM_POOL": "0",  # of processes that compile Triton's kernels, which no CPU runs
}


def lint() -> bool:
    """Style, then types: strict in the engine, plain in the nodes (pyproject.toml)."""
    return all([_run("ruff", "check", "."), _run("mypy")])


def test(arguments: list[str], comfyui: Path | None = None) -> bool:
    """Run pytest, on the ComfyUI of COMFYUI_PATH or on another one. Later arguments win: with `-n 0` it is one process."""
    environment = {**ENVIRONMENT, **os.environ, **({"COMFYUI_PATH": str(comfyui)} if comfyui else {})}
    return _run("pytest", *SIDE_BY_SIDE, *arguments, environment=environment)


def compat(arguments: list[str]) -> bool:
    """Run what touches ComfyUI on each pinned release."""
    passed = [test([*(arguments or COMPAT_TESTS)], release.tree) for release in RELEASES]
    return all(passed)


def _run(module: str, *arguments: str, environment: dict[str, str] | None = None) -> bool:
    comfyui = f" (ComfyUI: {environment.get('COMFYUI_PATH')})" if environment else ""
    print(f"== {module} {' '.join(arguments)}{comfyui}", flush=True)
    return subprocess.run([sys.executable, "-m", module, *arguments], env=environment).returncode == 0


def main() -> int:
    command, *arguments = sys.argv[1:]
    checks = {"lint": lint, "test": lambda: all([lint(), test(arguments)]), "compat": lambda: compat(arguments)}
    return 0 if checks[command]() else 1


if __name__ == "__main__":
    sys.exit(main())
