"""What the pack adds to ComfyUI's start: its load by ComfyUI's own loader, after ComfyUI's own nodes, in fresh processes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from statistics import median
from tempfile import TemporaryDirectory

from .page import OUTPUT, ROOT, update_page
from .profile_page import machine


@dataclass(frozen=True)
class Load:
    """One load. seconds: by the clock; cpu_seconds: of this process; modules: that it imported."""

    seconds: float
    cpu_seconds: float
    modules: int


def run(rounds: int) -> tuple[Load, list[Load]]:
    """The first load, which also compiles the pack's modules, and those after it, which find the bytecode."""
    with TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        first, *later = [_in_fresh_process(environment) for _ in range(rounds + 1)]
    return first, later


def report(first: Load, later: list[Load], command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    seconds, cpu = median(load.seconds for load in later), median(load.cpu_seconds for load in later)
    text = "\n".join([
        f"Median of {len(later)} starts. {machine('cpu')}.",
        "",
        f"`{command}`",
        "",
        "| | seconds | CPU seconds | modules |",
        "| --- | ---: | ---: | ---: |",
        f"| the first start, without bytecode | {first.seconds:.2f} | {first.cpu_seconds:.2f} | {first.modules} |",
        f"| starts after it | {seconds:.2f} | {cpu:.2f} | {later[0].modules} |",
    ])  # fmt: skip
    update_page("load", text)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    told = {"command": command, "first": asdict(first), "later": [asdict(load) for load in later]}
    (OUTPUT / "load.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    return text


def _in_fresh_process(environment: dict[str, str]) -> Load:
    command = [sys.executable, "-m", "tools.bench.load_once"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    return Load(**json.loads(done.stdout.splitlines()[-1]))
