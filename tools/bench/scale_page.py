"""One rank against several, and the plan for many GPUs, as people read them, in BENCHMARKS.md, and as JSON."""

import json
from dataclasses import asdict

from fastvideo_core.parallel import Layout

from .page import OUTPUT, ROOT, update_page
from .profile_page import machine
from .scale import Scale
from .scale_plan import (
    ETHERNET,
    NVLINK,
    PCIE,
    RATE,
    VIDEOS,
    Row,
    Video,
    exchanged,
    gathered,
    plan,
    step,
    velocity_bytes,
    weights_received,
)
from .sizes import SIZES

LINKS = NVLINK, PCIE
README = ROOT / "README.md"
LAYOUTS = Layout(2, 1), Layout(1, 2), Layout(1, 4), Layout(1, 8)
GPUS = 1, 2, 4, 8, 16, 32, 64
ON_MACHINE = 8
STEPS = 50


def report(scale: Scale, size: str, rounds: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{SIZES[size]}; one call over both branches, one thread a rank, median of {rounds} rounds. {machine('cpu')}."
    text = "\n".join([facts, "", f"`{command}`", "", *measured_table(scale)])
    planned = plans()
    update_page("scale", text)
    update_page("scale plan", planned)
    update_page("several gpus", several_gpus(), README)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": facts, "command": command, "scale": asdict(scale)}
    (OUTPUT / f"scale-{size}.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return f"{text}\n\n{planned}"


def plans() -> str:
    """BENCHMARKS.md's, of every video."""
    return "\n\n".join("\n".join(plan_table(video)) for video in VIDEOS.values())


def several_gpus() -> str:
    """README.md's: what each layout costs and brings for the largest video, and the plan to 64 GPUs."""
    video = VIDEOS["14B 720p"]
    facts = (
        f"{video.title} ({video.tokens} tokens), both branches of one step, at an assumed {RATE / 1e12:.0f} TFLOPS per GPU "
        f"({step(video, Layout(), NVLINK, NVLINK).total:.1f} s on one), seconds of its exchanges at the bandwidths named, each "
        "waiting for the last:"
    )
    return "\n".join([facts, "", *layouts_table(video), "", "The same video's plan to 64 GPUs:", "", *plan_table(video)[2:]])


def layouts_table(video: Video) -> list[str]:
    """Of one step: seconds of its exchanges by each link; bytes of the weights, where ranks share them."""
    columns = ["workers", "compute", "sent by each", *(link.name for link in (*LINKS, ETHERNET))]
    columns += ["blocks' weights, shared", "received of them"]
    return [
        f"| {' | '.join(columns)} |",
        f"| --- |{' ---: |' * (len(columns) - 1)}",
        *(_layout_row(video, layout) for layout in LAYOUTS),
    ]


def _layout_row(video: Video, layout: Layout) -> str:
    calls, ranks = 2 // layout.cfg, layout.ulysses
    each = [step(video, layout, link, link) for link in (*LINKS, ETHERNET)]
    sent = calls * exchanged(video, ranks) + (velocity_bytes(video) if layout.cfg == 2 else 0)
    cells = ["cfg 2" if ranks == 1 else f"ulysses {ranks}", f"{each[0].computing:.1f} s", f"{sent / 1e9:.2g} GB"]
    cells += [f"{round(seconds.exchanging + seconds.branches, 3):.2g} s" for seconds in each]
    cells.append(f"{video.weight_bytes / ranks / 1e9:.1f} GB" if ranks > 1 else "whole")
    cells.append(f"{calls * weights_received(video, ranks) / 1e9:.0f} GB" if ranks > 1 else "0 GB")
    return f"| {' | '.join(cells)} |"


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
    held = ", ".join(f"{video.weight_bytes / ranks / 1e9:.1f} of {ranks}" for ranks in shared)
    received = ", ".join(f"{weights_received(video, ranks) / 1e9:.1f} of {ranks}" for ranks in shared)
    names = " / ".join(link.name.partition(" ")[0] for link in LINKS)
    columns = ["GPUs", "machines", "layout", *(f"s a step, {link.name}" for link in LINKS)]
    columns += [f"speed-up, {names}", f"s a step, weights shared, {names}", "videos an hour", "one to a GPU"]
    return [
        f"{video.title}: {video.tokens} tokens, {video.flops / 1e15:.2f} PFLOP a branch and step at {RATE / 1e12:.0f} TFLOP/s. A "
        f"rank moves {moved} for each branch and step; halves with a branch each move {velocity_bytes(video) / 1e6:.0f} MB, "
        f"between machines by {ETHERNET.name}. Of {video.weight_bytes / 1e9:.1f} GB of weights in the blocks a rank that shares "
        f"them holds, in GB, {held}, and receives {received} for each branch and step.",
        "",
        f"| {' | '.join(columns)} |",
        f"| ---: | ---: | --- |{' ---: |' * (len(columns) - 3)}",
        *(_plan_row(row, alone) for row in rows),
    ]


def _plan_row(row: Row, alone: float) -> str:
    seconds = " | ".join(f"{each:.2f}" for each in row.seconds)
    speed_ups = " / ".join(f"{alone / each:.1f}" for each in row.seconds)
    sharded = " / ".join(f"{each:.2f}" for each in row.sharded) if row.layout.ulysses > 1 else ""
    groups = f"{row.groups} x " if row.groups > 1 else ""
    together = 3600 * row.groups / (STEPS * row.seconds[0])
    apart = 3600 * row.gpus / (STEPS * alone)
    cells = [str(row.gpus), str(row.machines), groups + row.layout.text(), seconds, speed_ups, sharded]
    cells += [f"{together:.1f}", f"{apart:.1f}"]
    return f"| {' | '.join(cells)} |"
