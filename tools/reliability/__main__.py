"""Faults on purpose: `python -m tools.reliability [PART ...] [--count N] [--seed S]`, with COMFYUI_PATH set, or
`make reliability ARGS="prompts files"`.

A part that is stopped goes on where it was when it is asked for again; `--anew` begins it anew. Its cases are lines of
output/reliability/PART.jsonl, its figures a row of BENCHMARKS.md.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("prompts", "files", "interrupts", "killed", "disk", "two", "load")

IN_ONE = ("load",)
"""Parts that begin anew where they were stopped: their cases are of one server."""


def main() -> int:
    asked = parser().parse_args()
    tree = os.environ.get("COMFYUI_PATH")
    if not tree:
        raise SystemExit("This needs ComfyUI: use `make reliability`, or set COMFYUI_PATH to a ComfyUI folder.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    sys.path.extend(str(ROOT / folder) for folder in ("tests", "tests/core"))  # the small files of the tests
    from . import page

    faults = [fault for name in asked.parts or PARTS for fault in part(name, Path(tree).resolve(), asked)]
    print(page.report(sys.argv[1:]))
    return 1 if faults else 0


def part(name: str, tree: Path, asked: argparse.Namespace) -> list[str]:
    """Makes what is left of it. Returns its faults."""
    from .case import Place
    from .journal import Journal
    from .page import OUTPUT

    module = importlib.import_module(f".{name}", __package__)
    journal = Journal(OUTPUT / f"{name}.jsonl")
    if asked.anew or (name in IN_ONE and journal.left(asked.count or module.COUNT)):
        journal.file.unlink(missing_ok=True)
    left = journal.left(asked.count or module.COUNT)
    with tempfile.TemporaryDirectory(prefix="reliability-") as base:
        for case in journal.keep(module.run(Place(tree, Path(base), asked.seed), left)) if left else ():
            print(f"{name} {case.number}: {case.what:.150}: {case.answer}{case.fault and f', FAULT: {case.fault}'}", flush=True)
    return [case.fault for case in journal.cases() if case.fault]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tools.reliability", description=__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    made.add_argument("--count", type=int, help="cases of each part, where not as many as it has")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--anew", action="store_true", help="forget the cases that were made")
    return made


if __name__ == "__main__":
    sys.exit(main())
