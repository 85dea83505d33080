"""What the notes of the workflows of published checkpoints say."""

from collections.abc import Iterator

from fastvideo_core.wan import WanVariant
from tools.workflows.memory import published_table, step_bytes, tokens_held
from tools.workflows.wan_files import WanFiles

MAGCACHE = (
    "**MagCache** skips the blocks of steps whose result is known well enough. *Not exact*: the video differs a little from the "
    "plain one; *FastVideo Compare* says how much."
)
DBCACHE = (
    "**DBCache** skips most blocks of steps in which the first ones change little (there is no ratio table for MagCache here). "
    "*Not exact*: the video differs a little from the plain one; *FastVideo Compare* says how much."
)
ATTENTION = "**Attention** takes an exact kernel and reads the empty rows of the prompt as two. *Exact* but for rounding."


def about(files: WanFiles) -> str:
    variant = files.variant
    cache = DBCACHE if published_table(variant) is None else MAGCACHE
    return "\n".join([
        f"## {variant.title}",
        f"{_size(variant)}, as Wan's authors sample it: {variant.steps} steps of unipc, shift {variant.shift:g}, "
        f"{_guidance(variant)}.",
        "",
        "### Fast or plain",
        "*Fast*, above the sampler, is the one switch. Off: the plain run, with nothing of the following.",
        f"- {cache}",
        f"- {ATTENTION}",
        "",
        *_memory(files, branches=2, held=tokens_held(variant)),
        *_files(files),
        *_to_change(variant),
    ])  # fmt: skip


def _size(variant: WanVariant) -> str:
    return f"{variant.width} x {variant.height}, {variant.frames} frames at {variant.fps} per second"


def _guidance(variant: WanVariant) -> str:
    if not variant.two_experts:
        return f"guidance scale {variant.guidance_scale:g}"
    scales = f"{variant.guidance_scale:g} (high noise) and {variant.low_noise_guidance_scale:g} (low noise)"
    return f"guidance scales {scales}, boundary {variant.boundary:g}"


def _memory(files: WanFiles, branches: int, held: int) -> Iterator[str]:
    weights = max(file.size for file in files.transformers) * 1e9 / 2**30
    step = step_bytes(files.variant, files.size, branches, held) / 2**30
    once = step_bytes(files.variant, files.size, 1, held) / 2**30
    expert = " of one expert at a time" if files.variant.two_experts else ""
    yield "### GPU memory"
    yield f"About {weights + step:.0f} GiB: {weights:.1f} of weights{expert}, {step:.1f} for a step of this size."
    if branches > 1:
        yield f"With both branches one after the other (*guidance_mode* sequential) a step takes {once:.1f}."
    yield "With less, ComfyUI keeps part of the weights in the computer's memory. A smaller or shorter video needs less."
    yield ""


def _files(files: WanFiles) -> Iterator[str]:
    yield f"### Files ({sum(file.size for file in files.all):.1f} GB)"
    yield "ComfyUI offers to download those that are missing, or put them there yourself:"
    yield from (f"- `models/{file.directory}`: [{file.name}]({file.url}), {file.size:g} GB" for file in files.all)
    yield ""


def _to_change(variant: WanVariant) -> Iterator[str]:
    yield "### To change"
    yield f"Width and height are multiples of {2 * variant.spatial}, the number of frames is a multiple of 4 plus 1."
    if variant.first_frame:
        yield ""
        yield "To start from a picture, select *Load Image* and press Ctrl+B: it is bypassed as the workflow comes."
