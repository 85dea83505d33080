"""One rank against several, and the plan for many GPUs, as people read them, in BENCHMARKS.md, and as JSON."""

import json
from dataclasses import asdict

from .page import OUTPUT, update_page
from .profile_page import machine
from .scale import Scale
from .scale_plan import ETHERNET, NVLINK, PCIE, RATE, VIDEOS, Row, Video, exchanged, gathered, plan, velocity_bytes
from .sizes import SIZES

LINKS = NVLINK, PCIE
GPUS = 1, 2, 4, 8, 16, 32, 64
ON_MACHINE = 8
STEPS = 50


def report(scale: Scale, size: str, rounds: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{SIZES[size]}; one call over both branches, one thread a rank, median of {rounds} rounds. {machine('cpu')}."
    text = "\n".join([facts, "", f"`{command}`", "", *measured_table(scale)])
    planned = "\n\n".join("\n".join(plan_table(video)) for video in VIDEOS.values())
    update_page("scale", text)
    update_page("scale plan", planned)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": facts, "command": command, "scale": asdict(scale)}
    (OUTPUT / f"scale-{size}.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return f"{text}\n\n{planned}"


def measured_table(scale: Scale) -> list[str]:
    alone, together = (sorted(each)[len(each) // 2] for each in (scale.alone, scale.together))
    return [
        "| ranks | ms per call | speed-up | of it in exchanges | peak memory of a rank | difference |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| 1 | {1000 * alone:.0f} | 1 | 0 % | {scale.peak_alone / 2**20:.0f} MiB | |",
        f"| {scale.ranks} | {1000 * together:.0f} | **{scale.speed_up:.2f}** | {100 * scale.share:.1f} % "
        f"| {scale.peak / 2**20:.0f} MiB | {scale.error:.1e} |",
    ]


def plan_table(video: Video) -> list[str]:
    rows = plan(video, GPUS, ON_MACHINE, LINKS, ETHERNET)
    alone = rows[0].seconds[0]
    shared = [ranks for ranks in (2, 4, 8) if video.heads % ranks == 0]
    moved = ", ".join(f"{(exchanged(video, ranks) + gathered(video, ranks)) / 1e9:.1f} GB of {ranks}" for ranks in shared)
    columns = ["GPUs", "machines", "layout", *(f"s a step, {link.name}" for link in LINKS)]
    columns += [f"speed-up, {' / '.join(link.name.partition(' ')[0] for link in LINKS)}", "videos an hour", "one to a GPU"]
    return [
        f"{video.title}: {video.tokens} tokens, {video.flops / 1e15:.2f} PFLOP a branch and step at {RATE / 1e12:.0f} TFLOP/s. A "
        f"rank moves {moved} for each branch and step; halves with a branch each move {velocity_bytes(video) / 1e6:.0f} MB, "
        f"between machines by {ETHERNET.name}.",
        "",
        f"| {' | '.join(columns)} |",
        f"| ---: | ---: | --- |{' ---: |' * (len(columns) - 3)}",
        *(_plan_row(row, alone) for row in rows),
    ]


def _plan_row(row: Row, alone: float) -> str:
    seconds = " | ".join(f"{each:.2f}" for each in row.seconds)
    speed_ups = " / ".join(f"{alone / each:.1f}" for each in row.seconds)
    groups = f"{row.groups} x " if row.groups > 1 else ""
    together = 3600 * row.groups / (STEPS * row.seconds[0])
    apart = 3600 * row.gpus / (STEPS * alone)
    cells = [str(row.gpus), str(row.machines), groups + row.layout.text(), seconds, speed_ups, f"{together:.1f}", f"{apart:.1f}"]
    return f"| {' | '.join(cells)} |"
