"""Sparse attention's figures as people read them, in BENCHMARKS.md, and as JSON."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict

import torch

from .page import OUTPUT, processor, update_page
from .sparse import DENSE_STEPS, MEASURED, STEPS, Result, Row, Video
from .sparse_ladder import TILE
from .sparse_time import HEAD_DIM, HEADS, TOKENS, Timing

HEAD = f"""## Sparse attention: error, quality, time

The training-free form of every variant on the trained demo model (`models/demo`): {{clips}} held-out prompts, each with a seed of
its own; {STEPS} Euler steps, shift 5, guidance scale 3 with both branches in one call; kernel `gather`. `flex` computes the same.

- *Density*: share of the pairs of tokens that were computed, counted.
- *Error*: ||sparse - dense|| / ||dense|| of the self-attention's output before its projection, on q, k and v of runs that stay
  dense ({MEASURED} clips, both branches, all four layers), in steps 1-{DENSE_STEPS} and {DENSE_STEPS + 1}-{STEPS}.
  *Worst layer*: over all steps, of the layer where it is largest.
- *SSIM*, *worst* clip, *PSNR*: to the dense clips of the same seeds (equal clips count 100 dB). *Shown*: of what the prompts ask
  (shape, colour, background, motion), how much the judge reads from the clips. Twice: sparse in every step, as the node is
  unless told otherwise, and with the first {DENSE_STEPS} steps dense.

What this does not show:

- The demo clips have 5 x 4 x 4 = 80 tokens: two of VSA's tiles of 4 x 4 x 4, and less than one of STA's of 6 x 8 x 8. Here all
  but SLA have tiles of {" x ".join(map(str, TILE))}, which makes 20 tiles of 4 tokens. SLA's blocks are fixed (128 queries, 64
  keys): it can choose between two blocks, so that its row says little. On clips of 128 x 128 pixels the demo model shows no
  shapes, and in 33 frames no motion: it cannot tell more than this. BSA gives a query that it leaves out its neighbour's
  output: here a neighbour is a quarter of the picture's height away, at 480p a thirtieth.
- A Wan video at 480p has 32 760 tokens, many of them alike, where the same sparsity can leave out less that matters. These rows
  compare variants and settings; they do not say which sparsity is safe on Wan. `measured` in
  `fastvideo_core.attention.sparse` measures the same error on any model.
- Checkpoints that were trained for sparse attention (FastWan, TurboDiffusion) are another matter.
"""
TIMES = f"""
One call of self-attention of {" x ".join(map(str, TOKENS))} = {math.prod(TOKENS)} tokens, {HEADS} heads of {HEAD_DIM}, float32,
and as a ratio to torch's dense attention beside it; medians. Tiles are the variants' own; choosing them is in the time, compiling
is not. The values are random: what BSA and NABLA choose of them says nothing of videos.
"""


def report(result: Result, clips: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    machine = (
        f"{processor()}, torch threads: {torch.get_num_threads()}; Python {platform.python_version()}, torch {torch.__version__}"
    )
    text = "\n".join(
        [f"{machine}. `{command}`", "", *quality_table(result.rows, result.shown, clips), TIMES, *time_table(result.timings)]
    )
    update_page("sparse", f"{HEAD.format(clips=clips)}\n{text}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = {"command": command, "machine": machine, "clips": clips, **asdict(result)}
    (OUTPUT / "sparse.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    return text


def quality_table(rows: Sequence[Row], dense: dict[str, int], clips: int) -> list[str]:
    asked = 4 * clips
    told = ", ".join(f"{kind} {shown} of {asked}" for kind, shown in dense.items())
    late = f"from step {DENSE_STEPS + 1}: SSIM"
    columns = ["case", "variant", "setting", "density", f"error 1-{DENSE_STEPS}", f"{DENSE_STEPS + 1}-{STEPS}", "worst layer"]
    columns += ["every step: SSIM", "worst", "PSNR", "shown", late, "worst", "PSNR", "shown"]
    head = [f"| {' | '.join(columns)} |", f"|---|---|---|{'---:|' * (len(columns) - 3)}"]
    return [f"The dense clips show: {told}.", "", *head, *(f"| {' | '.join(_cells(row))} |" for row in rows)]


def _cells(row: Row) -> list[str]:
    error = row.error
    errors = [f"{100 * error.density:.1f} %", *(_error(value) for value in (error.early, error.late, error.worst_layer))]
    return [row.kind, row.variant, row.setting, *errors, *(cell for video in row.videos for cell in _video(video))]


def _error(value: float) -> str:
    return f"{value:.3f}" if value >= 5e-4 else f"{value:.0e}"


def _video(video: Video) -> list[str]:
    return [f"{video.ssim:.4f}", f"{video.worst_ssim:.4f}", f"{video.psnr:.1f} dB", str(video.shown)]


def time_table(timings: Sequence[Timing]) -> list[str]:
    """One row per setting, its kernels side by side."""
    kernels = list(dict.fromkeys(timing.kernel for timing in timings))
    rows: dict[tuple[str, str], list[str]] = {}
    for each in timings:
        row = rows.setdefault((each.variant, each.setting), [each.variant, each.setting, f"{100 * each.density:.1f} %"])
        row += [f"{1000 * each.seconds:.0f}", f"{each.ratio:.2f}"]
    columns = ["variant", "setting", "density", *(name for kernel in kernels for name in (f"{kernel}: ms", "to dense"))]
    head = [f"| {' | '.join(columns)} |", f"|---|---|{'---:|' * (len(columns) - 2)}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows.values())]
