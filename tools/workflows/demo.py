"""The demo workflows: the small Wan that comes with the pack, which makes a video on any CPU."""

from tools.workflows.canvas import Canvas, Node, ObjectInfo, PackVersions
from tools.workflows.columns import (
    REPORT_SIZE,
    SAMPLER_SIZE,
    VIDEO_SIZE,
    Loaded,
    VideoSize,
    given_image_columns,
    noise_columns,
    sampling_columns,
    video_columns,
)

SIZE, FPS = VideoSize(64, 64, 17), 16
PROMPT = "a red circle moving right on a navy background"
SETTINGS = {"steps": 20, "shift": 5.0, "solver": "euler", "guidance_scale": 3.0}
PHASES = (("model", 0.95, 3.0), ("model", 0.875, 1.0), ("low_noise_model", 0.0, 3.0))
"""Which output of the loader works, down to which noise level, and the guidance scale."""
NOTE_SIZE = (360, 420)
COMPARE_SIZE, PLOT_SIZE = (420, 420), (420, 360)
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


def demo_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """Text to video, image to video, text to video twice or in phases, with the demo model."""
    canvas = Canvas(name, object_info, packs)
    from_image = DEMO_WORKFLOWS[name] == "i2v"
    title, more = {
        "demo_t2v": ("T2V", ""),
        "demo_i2v": ("I2V", ABOUT_IMAGE),
        "demo_compare": ("Compare", ABOUT_COMPARISON.format(accelerator="MagCache")),
        "demo_attention": ("Attention", ABOUT_COMPARISON.format(accelerator="Attention") + ABOUT_ATTENTION),
        "demo_phases": ("Phases", ABOUT_PHASES),
    }[name]
    about = ABOUT.format(title=title, width=SIZE.width, height=SIZE.height, frames=SIZE.length, fps=FPS)
    canvas.note(about + more, NOTE_SIZE)
    demo = canvas.node("FastVideoLoadDemoWan", model=DEMO_WORKFLOWS[name])
    if name in ACCELERATORS:
        _comparison(canvas, demo, *ACCELERATORS[name])
        return canvas
    canvas.column("Models", demo)
    loaded = Loaded([demo["model"]], demo["clip"], demo["vae"])
    if name == "demo_phases":
        _phases(canvas, demo, loaded)
        return canvas
    if from_image:
        conditions = given_image_columns(canvas, loaded, (PROMPT, ""), SIZE, demo["first_frame"])
    else:
        conditions = noise_columns(canvas, loaded, (PROMPT, ""), SIZE)
    sampling_columns(canvas, loaded, FPS, **conditions, **SETTINGS)
    return canvas


def _phases(canvas: Canvas, demo: Node, loaded: Loaded) -> None:
    """One node per phase, chained, and their sampler."""
    conditions = noise_columns(canvas, loaded, (PROMPT, ""), SIZE)
    phases: list[Node] = []
    for model, until, scale in PHASES:
        before = {"phases": phases[-1]["phases"]} if phases else {}
        phases.append(canvas.node("FastVideoPhase", model=demo[model], until=until, guidance_scale=scale, **before))
    canvas.column("Phases", *phases)
    run = {name: SETTINGS[name] for name in ("steps", "shift", "solver")}
    sampler = canvas.node("FastVideoPhaseSampler", size=SAMPLER_SIZE, phases=phases[-1]["phases"], **conditions, **run)
    video_columns(canvas, sampler, loaded.vae, FPS)


def _comparison(canvas: Canvas, demo: Node, accelerator: str, node: str) -> None:
    """One video without and one with the accelerator, and what is between them."""
    accelerated = canvas.node(node, model=demo["model"])
    canvas.column("Models", demo, accelerated)
    conditions = noise_columns(canvas, Loaded([demo["model"]], demo["clip"], demo["vae"]), (PROMPT, ""), SIZE)
    models = (demo["model"], accelerated["MODEL"])
    samplers = [canvas.node("FastVideoSampler", size=SAMPLER_SIZE, model=model, **conditions, **SETTINGS) for model in models]
    canvas.column(f"Sampling: without, with {accelerator}", *samplers)
    frames = [canvas.node("VAEDecode", samples=sampler["latent"], vae=demo["vae"]) for sampler in samplers]
    reports = [
        canvas.node("FastVideoRunReport", size=REPORT_SIZE, report=sampler["report"], images=images["IMAGE"])
        for sampler, images in zip(samplers, frames, strict=True)
    ]
    canvas.column("Frames and reports", frames[0], reports[0], frames[1], reports[1])
    compared = canvas.node(
        "FastVideoCompare", size=COMPARE_SIZE, reference=frames[0]["IMAGE"], candidate=frames[1]["IMAGE"],
        reference_report=samplers[0]["report"], candidate_report=samplers[1]["report"],
    )  # fmt: skip
    plot = canvas.node("PreviewImage", size=PLOT_SIZE, images=compared["plot"])
    canvas.column("Comparison", compared, plot)
    video = canvas.node("CreateVideo", images=compared["video"], fps=FPS)
    save = canvas.node("SaveVideo", size=VIDEO_SIZE, video=video["VIDEO"], filename_prefix=f"fastvideo/{canvas.name}")
    canvas.column("Side by side", video, save)
