"""The demo workflows: the small Wan that comes with the pack, which makes a video on any CPU."""

from typing import Any

from tools.workflows import columns
from tools.workflows.canvas import Canvas, Node, ObjectInfo, PackVersions, Socket
from tools.workflows.columns import Conditions, Loaded, VideoSize

SIZE, FPS = VideoSize(64, 64, 17), 16
PROMPT = "a red circle moving right on a navy background"
SETTINGS = {"steps": 20, "shift": 5.0, "solver": "euler", "guidance_scale": 3.0}
PHASES = (("model", 0.95, 3.0), ("model", 0.875, 1.0), ("low_noise_model", 0.0, 3.0))
"""Which output of the loader works, down to which noise level, and the guidance scale."""
NOTE_HEIGHT, PHASE_SAMPLER_HEIGHT = 620, 480
COMPARED_WIDTH, COMPARE_HEIGHT, PLOT_HEIGHT = 310, 220, 230
DEMO_WORKFLOWS = {
    "demo_t2v": "t2v", "demo_i2v": "i2v", "demo_compare": "t2v", "demo_attention": "t2v", "demo_phases": "two experts",
}  # fmt: skip
ACCELERATORS = {"demo_compare": ("MagCache", "FastVideoMagCache"), "demo_attention": ("Attention", "FastVideoAttention")}
"""What the second video of a comparison goes through: its name, and its node."""

ABOUT = """## FastVideo Demo {title}
{width} x {height}, {frames} frames at {fps} per second, with the small Wan that comes with the pack: no download, no GPU.

It was made on clips of one flat shape that moves over a flat background. It is there to see that everything works and to \
compare settings, not for pictures.

### To change
The prompt says shape, colour, background and motion:
- circle, square, triangle
- red, green, blue, yellow, purple, cyan
- black, white, gray, navy, brown, teal background
- moving left, right, up, down; still; growing; shrinking
"""
ABOUT_IMAGE = """
### First frame
The loader gives one. For another, connect *Load Image* in its place: one flat shape over a flat background.
"""
ABOUT_COMPARISON = """
### What is compared
The same prompt and seed twice: above as the model is, below with *FastVideo {accelerator}*. *FastVideo Compare* tells how much \
time that saved and how far the videos differ. Put other accelerators, or other settings, in its place.
"""
ABOUT_ATTENTION = """
FastVideo Attention changes nothing but rounding: it reads the empty rows of the prompt as one, which is most of what so small a \
video costs. At 480p and above the attention kernel that it chooses is what counts.
"""
ABOUT_PHASES = """
### Three phases
The high-noise expert with guidance settles what the video shows, then goes on without, at half the work; the low-noise \
expert finishes. Each *FastVideo Phase* is one of them: give each a model with the LoRAs that it shall have, and the noise level \
down to which it works.
"""
TITLES = {
    "demo_t2v": ("T2V", ""),
    "demo_i2v": ("I2V", ABOUT_IMAGE),
    "demo_compare": ("Compare", ABOUT_COMPARISON.format(accelerator="MagCache")),
    "demo_attention": ("Attention", ABOUT_COMPARISON.format(accelerator="Attention") + ABOUT_ATTENTION),
    "demo_phases": ("Phases", ABOUT_PHASES),
}


def demo_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """Text to video, image to video, text to video twice or in phases, with the demo model."""
    canvas = Canvas(name, object_info, packs)
    title, more = TITLES[name]
    about = ABOUT.format(title=title, width=SIZE.width, height=SIZE.height, frames=SIZE.length, fps=FPS) + more
    demo = canvas.node("FastVideoLoadDemoWan", model=DEMO_WORKFLOWS[name])
    loaded = Loaded([demo["model"]], demo["clip"], demo["vae"])
    if name in ACCELERATORS:
        _comparison(canvas, demo, about, *ACCELERATORS[name])
        return canvas
    if DEMO_WORKFLOWS[name] == "i2v":
        given = columns.from_image(canvas, loaded, (PROMPT, ""), SIZE, demo["first_frame"])
    else:
        given = columns.from_noise(canvas, loaded, (PROMPT, ""), SIZE)
    canvas.column(columns.NOTE_WIDTH, ("Model", [demo]), note=(about, NOTE_HEIGHT))
    canvas.column(columns.PROMPT_WIDTH, ("Prompt and size", given.nodes))
    sampler = (_in_phases if name == "demo_phases" else _in_one)(canvas, demo, given)
    columns.video_column(canvas, sampler, loaded.vae, FPS)
    return canvas


def _in_one(canvas: Canvas, demo: Node, given: Conditions) -> Node:
    sampler = canvas.node("FastVideoSampler", at_least=columns.SAMPLER_HEIGHT, model=demo["model"], **given.sampled, **SETTINGS)
    canvas.column(columns.SAMPLER_WIDTH, ("Sampling", [sampler]))
    return sampler


def _in_phases(canvas: Canvas, demo: Node, given: Conditions) -> Node:
    """One node per phase, chained, and their sampler."""
    phases: list[Node] = []
    for model, until, scale in PHASES:
        before = {"phases": phases[-1]["phases"]} if phases else {}
        phases.append(canvas.node("FastVideoPhase", model=demo[model], until=until, guidance_scale=scale, **before))
    run: dict[str, Any] = {name: SETTINGS[name] for name in ("steps", "shift", "solver")}
    run |= {"phases": phases[-1]["phases"], **given.sampled}
    sampler = canvas.node("FastVideoPhaseSampler", at_least=PHASE_SAMPLER_HEIGHT, **run)
    canvas.column(columns.SAMPLER_WIDTH, ("Phases", phases), ("Sampling", [sampler]))
    return sampler


def _comparison(canvas: Canvas, demo: Node, about: str, accelerator: str, node: str) -> None:
    """One video without and one with the accelerator, and what is between them."""
    accelerated = canvas.node(node, model=demo["model"])
    given = columns.from_noise(canvas, Loaded([demo["model"]], demo["clip"], demo["vae"]), (PROMPT, ""), SIZE)
    canvas.column(columns.NOTE_WIDTH, ("Model", [demo]), note=(about, NOTE_HEIGHT))
    canvas.column(columns.PROMPT_WIDTH, (accelerator, [accelerated]), ("Prompt and size", given.nodes))
    runs = [
        _reported(canvas, demo, model, given, title)
        for model, title in ((demo["model"], f"Without {accelerator}"), (accelerated["MODEL"], f"With {accelerator}"))
    ]
    (reference, first), (candidate, second) = runs
    compared = canvas.node(
        "FastVideoCompare", at_least=COMPARE_HEIGHT, reference=first["IMAGE"], candidate=second["IMAGE"],
        reference_report=reference["report"], candidate_report=candidate["report"],
    )  # fmt: skip
    plot = canvas.node("PreviewImage", at_least=PLOT_HEIGHT, images=compared["plot"])
    side_by_side = columns.saved(canvas, compared["video"], FPS, PLOT_HEIGHT)
    canvas.column(columns.VIDEO_WIDTH, ("Comparison", [compared, plot]), ("Side by side", side_by_side))


def _reported(canvas: Canvas, demo: Node, model: Socket, given: Conditions, title: str) -> tuple[Node, Node]:
    """A column with a run: its sampler, and its frames."""
    sampler = canvas.node("FastVideoSampler", model=model, **given.sampled, **SETTINGS)
    frames = canvas.node("VAEDecode", samples=sampler["latent"], vae=demo["vae"])
    report = canvas.node("FastVideoRunReport", at_least=COMPARE_HEIGHT, report=sampler["report"], images=frames["IMAGE"])
    canvas.column(COMPARED_WIDTH, (title, [sampler, frames, report]))
    return sampler, frames
