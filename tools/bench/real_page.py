"""Real sizes, as people read them, in BENCHMARKS.md, and as JSON."""

import json
from dataclasses import asdict

from .page import OUTPUT, machine_facts, update_page
from .real import FIRST, Measured
from .sizes import SIZES


def report(measured: list[Measured], device: str, size: str, steps: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{SIZES[size]}; {steps} Euler steps with guidance. {machine_facts(device)}"
    text = "\n".join([f"{facts}.", "", f"`{command}`", "", *table(measured)])
    update_page(f"real {device} {size}", text)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    told = {"facts": facts, "command": command, "measured": [asdict(each) for each in measured]}
    (OUTPUT / f"real-{device}-{size}.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    return text


def table(measured: list[Measured]) -> list[str]:
    floor = next((each.step_seconds for each in measured if each.name == FIRST), None)
    return [
        "| | seconds a step | to KSampler | first step | peak memory | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_row(each, floor) for each in measured),
    ]


def _row(each: Measured, floor: float | None) -> str:
    if each.step_seconds is None or each.first_seconds is None or each.peak_bytes is None:
        return f"| {each.name} | did not run: {each.why} | | | | |"
    cells = [
        each.name,
        f"{each.step_seconds:.3f}",
        "" if floor is None else f"{each.step_seconds / floor:.3f}",
        f"{each.first_seconds:.2f} s",
        f"{each.peak_bytes / 2**20:.0f} MiB",
        "" if each.difference is None else f"{each.difference:.1e}",
    ]
    return f"| {' | '.join(cells)} |"
