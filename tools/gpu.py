"""Everything that only a GPU can tell: its tests, then benchmarks at real sizes, as one JSON file that a person can send.

    make test-gpu                      all of it, about 25 minutes on a card of 80 GB
    make test-gpu ARGS=--tests-only    without the benchmarks

Leaves output/gpu.json, and the benchmarks' tables in BENCHMARKS.md. Exit status 1 if a test failed or a benchmark did not end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from tools.runtime.pins import ROOT

OUTPUT = ROOT / "output" / "bench"
"""Where the benchmarks leave their figures."""
RESULTS = ROOT / "output" / "gpu.json"
PACKAGES = ("torch", "triton", "diffusers", "flash-attn", "flash-attn-3", "sageattention", "xformers", "cache-dit")
BENCHES = (
    ("loop", "--device", "cuda", "--size", "1.3B-480p", "--steps", "4", "--rounds", "2"),
    ("profile", "--device", "cuda", "--size", "1.3B-480p", "--steps", "4", "--rounds", "2"),
    ("real", "--device", "cuda", "--size", "14B-480p", "--steps", "4"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests-only", action="store_true", help="leave the benchmarks out")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("make test-gpu: torch sees no CUDA device here. `make test` is everything that needs none.", file=sys.stderr)
        return 1
    results = {"machine": machine(), "tests": tests(), "benches": [] if asked.tests_only else [bench(*each) for each in BENCHES]}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(f"Results: {RESULTS}")
    failed = [each for each in results["tests"] if each["outcome"] in ("failed", "error")]
    return 1 if failed or not results["tests"] or any(each["status"] for each in results["benches"]) else 0


def machine() -> dict[str, Any]:
    card = torch.cuda.get_device_properties(0)
    return {
        "gpu": card.name,
        "memory_bytes": card.total_memory,
        "capability": f"{card.major}.{card.minor}",
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def tests() -> list[dict[str, Any]]:
    """Each test that is marked `gpu`, run one after the other in one process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "--junitxml", str(file)])
        return read_junit(file.read_text(encoding="utf-8")) if file.is_file() else []


def read_junit(text: str) -> list[dict[str, Any]]:
    """pytest's own results. outcome: passed, failed, error or skipped; message: why it is not passed."""
    return [_case(case) for case in ElementTree.fromstring(text).iter("testcase")]


def _case(case: ElementTree.Element) -> dict[str, Any]:
    found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
    return {
        "test": f"{case.get('classname')}::{case.get('name')}",
        "seconds": float(case.get("time", "0")),
        "outcome": "passed" if found is None else found.tag.replace("failure", "failed"),
        "message": "" if found is None else found.get("message", ""),
    }


def bench(what: str, *options: str) -> dict[str, Any]:
    """One benchmark in a process of its own. status: its exit status; files: what it wrote, by name."""
    before = {file: file.stat().st_mtime_ns for file in OUTPUT.glob("*.json")}
    status = subprocess.run([sys.executable, "-m", "tools.bench", what, *options]).returncode
    written = [file for file in OUTPUT.glob("*.json") if before.get(file) != file.stat().st_mtime_ns]
    return {
        "command": ["python", "-m", "tools.bench", what, *options],
        "status": status,
        "files": {file.name: json.loads(file.read_text(encoding="utf-8")) for file in written},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
