"""What the demo workflows do with the demo model: from its loader to the saved video."""

from collections.abc import Callable, Sequence
from typing import Any

from tools.workflows import columns
from tools.workflows.canvas import Canvas, Node, Socket
from tools.workflows.columns import Conditions, Loaded, VideoSize

Way = Callable[[Canvas, Node], None]

SIZE, FPS = VideoSize(64, 64, 17), 16
PROMPT = "a red circle moving right on a navy background"
QUEUED = (PROMPT, "a green square moving down on a white background", "a yellow triangle growing on a teal background")
RUN = {"steps": 20, "shift": 5.0, "solver": "euler"}
SETTINGS = {**RUN, "guidance_scale": 3.0}
PHASES = (("model", 0.95, 3.0), ("model", 0.875, 1.0), ("low_noise_model", 0.0, 3.0))
EXPERTS = (("model", 0.875, 3.0), ("low_noise_model", 0.0, 3.0))
"""Which output of the loader works, down to which noise level, and the guidance scale."""
RECIPE = "lightx2v_wan2.1"
"""4 steps of euler, shift 5, no guidance: as models/demo/README.md says of the LoRAs."""
COMPARED_WIDTH, REPORT_HEIGHT, COMPARE_HEIGHT, PLOT_HEIGHT, TUNE_HEIGHT = 310, 220, 300, 190, 560
TEXT_HEIGHT = 90


def from_text(canvas: Canvas, demo: Node) -> None:
    _sampled(canvas, demo, demo["model"], _prompt(canvas, demo))


def from_image(canvas: Canvas, demo: Node) -> None:
    _sampled(canvas, demo, demo["model"], _prompt(canvas, demo, demo["first_frame"]))


def two_experts(canvas: Canvas, demo: Node) -> None:
    given = _prompt(canvas, demo)
    second = {"low_noise_model": demo["low_noise_model"], "low_noise_guidance_scale": 3.0, "boundary": 0.875}
    _sampled(canvas, demo, demo["model"], given, **second)


def more_motion(canvas: Canvas, demo: Node) -> None:
    """In few steps without guidance, which move little."""
    given = columns.from_image(canvas, _loaded(demo), (PROMPT, ""), SIZE, demo["first_frame"])
    branches = {name: given.sampled[name] for name in ("positive", "negative")}
    moved = canvas.node("FastVideoImageMotion", **branches)
    canvas.column(columns.PROMPT_WIDTH, ("Prompt and size", given.nodes), ("More motion", [moved]))
    given = Conditions(given.nodes, {**given.sampled, **{name: moved[name] for name in branches}})
    _sampled(canvas, demo, demo["model"], given, steps=4, guidance_scale=1.0)


def four_steps(canvas: Canvas, demo: Node) -> None:
    given = _prompt(canvas, demo)
    recipe = canvas.node("FastVideoRecipe", recipe=RECIPE, model=demo["model"])
    outputs = {name: recipe[name] for name in ("phases", "sigmas", "solver")}
    sampler = _phase_sampler(canvas, given, **outputs, steps=4)
    canvas.column(columns.SAMPLER_WIDTH, ("Sampling", [recipe, sampler]))
    columns.video_column(canvas, sampler, demo["vae"], FPS)


def in_phases(canvas: Canvas, demo: Node) -> None:
    given = _prompt(canvas, demo)
    phases = _phases(canvas, demo, PHASES)
    sampler = _phase_sampler(canvas, given, phases=phases[-1]["phases"], **RUN)
    canvas.column(columns.SAMPLER_WIDTH, ("Phases", phases), ("Sampling", [sampler]))
    columns.video_column(canvas, sampler, demo["vae"], FPS)


def queued(canvas: Canvas, demo: Node) -> None:
    """A list of prompts in one run."""
    prompts = [
        canvas.node("PrimitiveStringMultiline", at_least=TEXT_HEIGHT, title=f"Prompt {number}", value=text)
        for number, text in enumerate(QUEUED, start=1)
    ]
    listed = canvas.node("CreateList", **{f"inputs.input{place}": node["STRING"] for place, node in enumerate(prompts)})
    given = columns.from_noise(canvas, _loaded(demo), (listed["list"], ""), SIZE)
    canvas.column(columns.PROMPT_WIDTH, ("Prompts", [*prompts, listed]), ("Text and size", given.nodes))
    phases = _phases(canvas, demo, EXPERTS)
    sampler = canvas.node(
        "FastVideoQueueSampler", at_least=columns.PHASE_SAMPLER_HEIGHT, phases=phases[-1]["phases"], **given.sampled, **RUN
    )
    canvas.column(columns.SAMPLER_WIDTH, ("Phases", phases), ("Sampling", [sampler]))
    columns.video_column(canvas, sampler, demo["vae"], FPS, ("latents", "reports"))


def tuned(canvas: Canvas, demo: Node) -> None:
    """The settings of a step cache are found, and used."""
    given = _prompt(canvas, demo)
    tune = canvas.node(
        "FastVideoAutoTune", at_least=TUNE_HEIGHT, model=demo["model"], vae=demo["vae"], **given.sampled, **SETTINGS
    )
    plot = canvas.node("PreviewImage", at_least=PLOT_HEIGHT, images=tune["plot"])
    canvas.column(columns.SAMPLER_WIDTH, ("Auto-tune", [tune, plot]))
    _sampled(canvas, demo, tune["model"], given)


def calibrated(canvas: Canvas, demo: Node) -> None:
    given = _prompt(canvas, demo)
    settings = {name: value for name, value in SETTINGS.items() if name != "solver"}
    measured = canvas.node("FastVideoCalibrateMagCache", at_least=TUNE_HEIGHT, model=demo["model"], **given.sampled, **settings)
    canvas.column(columns.SAMPLER_WIDTH, ("Calibrate", [measured]))
    columns.video_column(canvas, measured, demo["vae"], FPS)


def with_magcache(canvas: Canvas, demo: Node) -> None:
    _comparison(canvas, demo, "MagCache", "FastVideoMagCache")


def with_attention(canvas: Canvas, demo: Node) -> None:
    _comparison(canvas, demo, "Attention", "FastVideoAttention")


def _prompt(canvas: Canvas, demo: Node, first_frame: Socket | None = None) -> Conditions:
    """The column of the prompt and the size."""
    asked = (canvas, _loaded(demo), (PROMPT, ""), SIZE)
    given = columns.from_noise(*asked) if first_frame is None else columns.from_image(*asked, first_frame)
    canvas.column(columns.PROMPT_WIDTH, ("Prompt and size", given.nodes))
    return given


def _loaded(demo: Node) -> Loaded:
    return Loaded([demo["model"]], demo["clip"], demo["vae"])


def _sampled(canvas: Canvas, demo: Node, model: Socket, given: Conditions, **settings: Any) -> None:
    """The columns of FastVideo Sampler and of its video."""
    inputs = {**given.sampled, **SETTINGS, **settings}
    sampler = canvas.node("FastVideoSampler", at_least=columns.SAMPLER_HEIGHT, model=model, **inputs)
    canvas.column(columns.SAMPLER_WIDTH, ("Sampling", [sampler]))
    columns.video_column(canvas, sampler, demo["vae"], FPS)


def _phases(canvas: Canvas, demo: Node, rows: Sequence[tuple[str, float, float]]) -> list[Node]:
    """One node per phase, chained."""
    phases: list[Node] = []
    for model, until, scale in rows:
        before = {"phases": phases[-1]["phases"]} if phases else {}
        phases.append(canvas.node("FastVideoPhase", model=demo[model], until=until, guidance_scale=scale, **before))
    return phases


def _phase_sampler(canvas: Canvas, given: Conditions, **inputs: Any) -> Node:
    return canvas.node("FastVideoPhaseSampler", at_least=columns.PHASE_SAMPLER_HEIGHT, **given.sampled, **inputs)


def _comparison(canvas: Canvas, demo: Node, accelerator: str, node: str) -> None:
    """One video without and one with the accelerator, and what is between them."""
    accelerated = canvas.node(node, model=demo["model"])
    given = columns.from_noise(canvas, _loaded(demo), (PROMPT, ""), SIZE)
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
    report = canvas.node("FastVideoRunReport", at_least=REPORT_HEIGHT, report=sampler["report"], images=frames["IMAGE"])
    canvas.column(COMPARED_WIDTH, (title, [sampler, frames, report]))
    return sampler, frames
