"""Results as people read them (BENCHMARKS.md, each block between its own two markers) and as programs do (output/bench/)."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from .measure import Result, quartiles

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "BENCHMARKS.md"
OUTPUT = ROOT / "output" / "bench"
OWN, RIVALS = "engine, batched", ("diffusers WanPipeline", "ComfyUI KSampler")


def markdown_table(results: list[Result], steps: int, facts: str, command: str, machine: str) -> str:
    lines = [
        f"{facts}. {machine}.",
        "",
        f"`{command}`",
        "",
        "| | ms per step | outside the network | ratio | quartiles | to | peak memory | difference |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    return "\n".join([*lines, *(_row(result, steps) for result in results)])


def to_the_faster(results: list[Result]) -> str:
    """The engine's best way against the better one of the others in each round."""
    of = {result.name: result.seconds for result in results}
    others = [of[name] for name in RIVALS]
    ratios = [own / min(theirs) for own, *theirs in zip(of[OWN], *others, strict=True)]
    low, ratio, high = quartiles(ratios)
    return f"*{OWN}* to the faster of {' and '.join(RIVALS)} in each round: **{ratio:.3f}** ({low:.3f} - {high:.3f})."


def _row(result: Result, steps: int) -> str:
    _, seconds, _ = quartiles(result.seconds)
    low, ratio, high = quartiles(result.ratios)
    _, outside, _ = quartiles(result.outside)
    is_floor = result.floor == result.name
    cells = [
        result.name,
        f"{1000 * seconds / steps:.1f}",
        f"{100 * outside:.2f} %",
        "1" if is_floor else f"{ratio:.3f}",
        "" if is_floor else f"{low:.3f} - {high:.3f}",
        "" if is_floor else result.floor,
        f"{result.peak_bytes / 2**20:.0f} MiB",
        "" if result.difference is None else f"{result.difference:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def machine_facts(device: str) -> str:
    place = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, torch threads: {torch.get_num_threads()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
    return f"{place}; Python {platform.python_version()}, {packages}, ComfyUI {comfyui_version()}"


def processor() -> str:
    """The CPU's name; Linux tells it in /proc/cpuinfo only."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.is_file() else []  # fmt: skip
    return names[0] if names else platform.processor() or platform.machine()


def comfyui_version() -> str:
    import comfyui_version as tree

    return str(tree.__version__)


def update_page(block: str, text: str, page: Path = PAGE) -> None:
    """Puts `text` between the markers of `block`; a block that the page lacks is added at its end."""
    begin, end = f"<!-- {block} -->", f"<!-- end of {block} -->"
    content = page.read_text(encoding="utf-8")
    if begin not in content:
        content = f"{content.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = content.split(begin, 1)
    _, after = rest.split(end, 1)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def write_json(name: str, results: list[Result], facts: str, command: str, machine: str) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": facts, "command": command, "machine": machine, "results": [asdict(result) for result in results]}
    (OUTPUT / f"{name}.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
