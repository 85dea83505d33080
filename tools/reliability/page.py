"""Parts as rows of BENCHMARKS.md."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from tools.bench.page import OUTPUT as BENCHES
from tools.bench.page import processor, update_page

from .case import Case
from .journal import Journal
from .load import WARM, Slope

OUTPUT = BENCHES.parent / "reliability"
MIB = 2**20
DONE = {
    "prompts": "mutated prompts over all nodes and shipped workflows",
    "files": "damaged files, through every node that reads one",
    "interrupts": "interrupts at random moments, over all shipped workflows", "killed": "servers killed in the middle of a run",
    "disk": "saved to a disk that fills up", "two": "prompts to two servers at once, one output folder",
    "load": "prompts through one server",
}  # fmt: skip


def report(arguments: Sequence[str]) -> str:
    """Of all parts that were made. Writes the page; returns the text for the terminal."""
    parts = {name: cases for name in DONE if (cases := Journal(OUTPUT / f"{name}.jsonl").cases())}
    rows = [f"| {len(cases)} {DONE[name]} | {_answers(cases)} | {_faults(cases)} |" for name, cases in parts.items()]
    told = [line for name, cases in parts.items() if name in FIGURES for line in FIGURES[name](cases)]
    facts = f"{processor()}, other programs at work on its cores; torch {version('torch')}, one thread."
    command = f"`{shlex.join(['python', '-m', 'tools.reliability', *arguments])}`"
    table = ["| done | answers | faults |", "| --- | --- | ---: |", *rows]
    text = "\n".join([facts, "", command, "", *table, "", *told])
    update_page("reliability", text)
    return text


def _answers(cases: Sequence[Case]) -> str:
    return ", ".join(f"{count} {answer}" for answer, count in Counter(case.answer for case in cases).most_common())


def _faults(cases: Sequence[Case]) -> str:
    found = Counter(case.fault for case in cases if case.fault)
    return "; ".join(f"{count}: {fault}" for fault, count in found.items()) or "0"


def _interrupts(cases: Sequence[Case]) -> list[str]:
    kept = [case.figures["kept"] / MIB for case in cases if "kept" in case.figures]
    hit = sum(case.answer == "interrupted" for case in cases)
    return [
        f"Interrupts: {hit} of {len(cases)} came before the end. After those of each workflow its next run was compared with the "
        f"one before ({len(kept)} workflows), and the server held {sum(kept) / len(kept):.1f} MiB more in the mean, "
        f"{max(kept):.1f} MiB at the most."
    ]


def _killed(cases: Sequence[Case]) -> list[str]:
    steps = [int(case.figures["step"]) for case in cases if case.figures.get("step")]
    return [f"Killed servers: the runs went on at steps {', '.join(map(str, sorted(steps)))} of 40."] if steps else []


def _load(cases: Sequence[Case]) -> list[str]:
    rows = [case.figures for case in cases[WARM:]]
    if len(rows) < WARM:
        return []
    slopes = {name: Slope.of([row[name] for row in rows]) for name in ("memory", "threads", "handles")}
    memory = slopes["memory"]
    return [
        f"Load: over the {len(rows)} prompts after the first {WARM}, resident memory {memory.value / 1024:+.2f} +- "
        f"{memory.error / 1024:.2f} KiB a prompt (it is {rows[-1]['memory'] / MIB:.0f} MiB), threads "
        f"{slopes['threads'].value:+.4f} +- {slopes['threads'].error:.4f}, open files {slopes['handles'].value:+.4f} +- "
        f"{slopes['handles'].error:.4f}."
    ]


FIGURES: Mapping[str, Callable[[Sequence[Case]], list[str]]] = {"interrupts": _interrupts, "killed": _killed, "load": _load}
