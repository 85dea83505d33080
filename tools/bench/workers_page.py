"""What workers cost and what they leave behind, as people read it in BENCHMARKS.md, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from .growth import STEPS, WARM, Growth
from .overhead import Overhead
from .page import OUTPUT, update_page
from .profile_page import machine

WORDS = {
    "processes": "processes", "threads": "threads", "handles": "open files and sockets", "memory": "memory, MiB",
    "shared": "in /dev/shm, MiB",
}  # fmt: skip


def report(overheads: Sequence[Overhead], growth: Growth, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{machine('cpu')}; workers with one thread each."
    text = "\n".join([facts, "", f"`{command}`", "", *overhead_table(overheads), "", *growth_table(growth)])
    update_page("workers", text)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": facts, "command": command, "overheads": [asdict(each) for each in overheads], "growth": asdict(growth)}
    (OUTPUT / "workers.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return text


def overhead_table(overheads: Sequence[Overhead]) -> list[str]:
    return [
        "| workers | ms a step here | ms a step there | more, medians | more, fastest steps |",
        "| ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {each.workers} | {1000 * each.here:.1f} | {1000 * each.asked:.1f} | {1000 * (each.asked - each.here):.1f} "
            f"| {1000 * each.least:.1f} |"
            for each in overheads
        ),
    ]


def growth_table(growth: Growth) -> list[str]:
    before, after = (f"after {count} prompts of {STEPS} steps" for count in (WARM, WARM + growth.prompts))
    return [f"| | {before} | {after} | |", "| --- | ---: | ---: | ---: |", *(_row(growth, name) for name in WORDS)]


def _row(growth: Growth, name: str) -> str:
    before, after = values = [getattr(each, name) for each in (growth.before, growth.after)]
    cells = [f"{value / 2**20:.1f}" if "MiB" in WORDS[name] else str(value) for value in values]
    return f"| {WORDS[name]} | {' | '.join(cells)} | {after / before - 1:+.1%} |"
