"""The curves as people read them: a table and a picture in BENCHMARKS.md, and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from fastvideo_core.pictures import save_png

from .curves import Point, beaten, picture
from .page import OUTPUT, ROOT, processor, update_page

PLOT = ROOT / "assets" / "curves.png"
HEAD = """## Step caches: speed against quality

The trained demo model (`models/demo`) through the engine, on the CPU; {clips} held-out prompts, each with a seed of its own,
against the dense run of the same seed: euler, shift 5, guidance scale 3 with both branches in one call. *Saved*: share of the
transformer blocks that did not run, counted in the network. *Time*: of a generation without text and VAE, as a ratio to the
dense run beside it, median. *SSIM* and *PSNR*: mean over frames, then over clips (windowed SSIM, data range 1; equal clips
count 100 dB); *worst*: the worst clip's SSIM.

- FastVideo MagCache: threshold and max_skips; trend 0.7, retention 0.2, one table per model measured at 40 steps.
- diffusers MagCache: `MagCacheConfig` with its defaults but the threshold, calibrated by itself at exactly these steps on the
  same clips as ours; of two experts each gets its own steps and ratios.
- FastVideo DBCache: threshold and max_skips; first block, warmup of a fifth where none is
  stated, Taylor order 1.
- cache-dit: its defaults (warmup of 8 steps, no Taylor, any number of skips) but the threshold, and but the first block alone:
  its default of 8 is more than there are.
"""


def report(points: Sequence[Point], clips: int, command: str) -> str:
    """Writes page, picture and JSON; returns the text for the terminal."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "cache-dit"))
    rows = [f"| {' | '.join(_cells(point))} |" for point in points]
    head = ["| case | cache | setting | saved | time | SSIM | worst | PSNR |", "|---|---|---|---:|---:|---:|---:|---:|"]
    text = "\n".join([f"{processor()}; {versions}. `{command}`", "", *head, *rows, "", verdict(points)])
    save_png(picture(points), PLOT)
    update_page("curves", f"{HEAD.format(clips=clips)}\n![SSIM over block calls saved](assets/{PLOT.name})\n\n{text}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"command": command, "clips": clips, "points": [asdict(point) for point in points]}
    (OUTPUT / "curves.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return text


def verdict(points: Sequence[Point]) -> str:
    failed = beaten(points)
    if not failed:
        return (
            "To every point of diffusers' MagCache there is one of FastVideo MagCache that saves as many block calls or more at "
            "as high an SSIM or higher, and to every point of cache-dit one of FastVideo DBCache."
        )
    named = "; ".join(f"{point.name} {point.setting} ({point.case})" for point in failed)
    return f"No point of ours saves as many block calls at as high an SSIM as: {named}."


def _cells(point: Point) -> list[str]:
    figures = (
        f"{100 * point.cut:.1f} %",
        f"{point.ratio:.2f}",
        f"{point.ssim:.4f}",
        f"{point.worst_ssim:.4f}",
        f"{point.psnr:.1f} dB",
    )
    return [point.case, point.name, point.setting, *figures]
