"""What the notes of the workflows of published checkpoints say."""

from collections.abc import Iterator

from fastvideo_core.wan import WanVariant
from tools.workflows.memory import published_table
from tools.workflows.wan_files import WanFiles
from tools.workflows.wan_memory import GIB, memory_of

MAGCACHE = (
    "**MagCache** skips the blocks of steps whose result is known well enough. *Not exact*: the video differs a little from the "
    "plain one; *FastVideo Compare* says how much."
)
DBCACHE = (
    "**DBCache** skips most blocks of steps in which the first ones change little (there is no ratio table for MagCache here). "
    "*Not exact*: the video differs a little from the plain one; *FastVideo Compare* says how much."
)
ATTENTION = "**Attention** takes an exact kernel and reads the empty rows of the prompt as two. *Exact* but for rounding."
RECIPE = (
    "**Recipe** recognises the LoRA by its name and gives the sampler what it was distilled for. A step cache would find "
    "nothing to reuse between so few steps."
)
LORA = (
    "**LoRA**: *not exact*, it is another model: its videos are others than the plain run's, and often move less. "
    "*FastVideo Compare* measures how much."
)
BASE_FIRST = (
    "**Three phases**: the high-noise expert begins without the LoRA and with guidance, which settles the motion; then both go "
    "on with it. It is one run: the solver goes on, and no model is loaded twice."
)

MOTION = "**Too little motion?** Put *FastVideo Image Motion* between *WanImageToVideo* and the sampler."


def about(files: WanFiles) -> str:
    described = _few_steps(files) if files.loras else _many_steps(files)
    return "\n".join([*described, "", *_memory(files), *_files(files), *_to_change(files.variant)])


def _many_steps(files: WanFiles) -> Iterator[str]:
    variant = files.variant
    yield f"## {variant.title}"
    yield f"{_size(files)}, as Wan's authors sample it: {_authors(variant)}."
    yield ""
    yield "### Fast or plain"
    yield "*Fast*, above the sampler, is the one switch. Off: the plain run, with nothing of the following."
    yield f"- {DBCACHE if published_table(variant) is None else MAGCACHE}"
    yield f"- {ATTENTION}"


def _few_steps(files: WanFiles) -> Iterator[str]:
    recipe = files.recipe
    steps = " + ".join(map(str, recipe.steps_of_phases()))
    yield f"## {files.variant.title}, {'3 phases' if files.base_first else f'{recipe.levels.steps} steps'}"
    yield (
        f"{_size(files)}, with lightx2v's few-step LoRA: {steps} steps of {recipe.solver}, shift {recipe.levels.shift:g}, "
        f"{'guidance in the first phase only' if files.base_first else 'no guidance'}."
    )
    yield ""
    yield "### Fast or plain"
    yield (
        "*LoRA strength*, above the sampler, is the one switch. At 0 there is no LoRA, and *FastVideo Recipe* gives the plain "
        f"run, as Wan's authors sample the model: {_authors(files.variant)}."
    )
    yield f"- {RECIPE}"
    yield from [f"- {BASE_FIRST}"] if files.base_first else []
    yield f"- {LORA}"
    yield from [f"- {MOTION}"] if files.variant.in_channels > files.variant.latent_channels else []
    yield f"- {ATTENTION} It stays in the plain run."


def _size(files: WanFiles) -> str:
    return f"{files.size.width} x {files.size.height}, {files.size.length} frames at {files.variant.fps} per second"


def _authors(variant: WanVariant) -> str:
    return f"{variant.steps} steps of unipc, shift {variant.shift:g}, {_guidance(variant)}"


def _guidance(variant: WanVariant) -> str:
    if not variant.two_experts:
        return f"guidance scale {variant.guidance_scale:g}"
    scales = f"{variant.guidance_scale:g} (high noise) and {variant.low_noise_guidance_scale:g} (low noise)"
    return f"guidance scales {scales}, boundary {variant.boundary:g}"


def _memory(files: WanFiles) -> Iterator[str]:
    memory = memory_of(files)
    expert = " of one expert at a time" if files.variant.two_experts else ""
    yield "### GPU memory"
    yield (
        f"About {memory.total / GIB:.0f} GiB while it samples, by the engine's estimate: {memory.weights / GIB:.1f} of weights"
        f"{expert}, {memory.largest / GIB:.1f} for a step of this size."
    )
    if memory.guided:
        yield f"With both branches one after the other (*guidance_mode* sequential) a step takes {memory.one_branch / GIB:.1f}."
    else:
        yield f"In the plain run, which has guidance, a step takes {memory.two_branches / GIB:.1f}."
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
