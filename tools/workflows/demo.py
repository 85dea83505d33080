"""The demo workflows: the small Wan that comes with the pack, which makes a video on any CPU."""

from dataclasses import dataclass

from tools.workflows import columns, demo_notes, demo_notes_zh, demo_ways
from tools.workflows.bilingual import bilingual
from tools.workflows.canvas import Canvas, ObjectInfo, PackVersions
from tools.workflows.demo_ways import FPS, SIZE, Way

NOTE_HEIGHT = 760


@dataclass(frozen=True)
class Demo:
    """model: which of the demo's; title and about: of the note; way: what makes the video."""

    model: str
    title: str
    way: Way
    about: str = ""
    lora_strength: float = 0.0


DEMO_WORKFLOWS = {
    "demo_t2v": Demo("t2v", "T2V", demo_ways.from_text),
    "demo_i2v": Demo("i2v", "I2V", demo_ways.from_image, demo_notes.IMAGE),
    "demo_two_experts": Demo("two experts", "Two experts", demo_ways.two_experts, demo_notes.EXPERTS),
    "demo_compare": Demo("t2v", "Compare", demo_ways.with_magcache, demo_notes.comparison("MagCache")),
    "demo_attention": Demo(
        "t2v", "Attention", demo_ways.with_attention, demo_notes.comparison("Attention") + demo_notes.ATTENTION
    ),
    "demo_4_steps": Demo("t2v", "4 steps", demo_ways.four_steps, demo_notes.FEW_STEPS, lora_strength=1.0),
    "demo_phases": Demo("two experts", "Phases", demo_ways.in_phases, demo_notes.PHASES),
    "demo_i2v_motion": Demo("i2v", "I2V motion", demo_ways.more_motion, demo_notes.IMAGE + demo_notes.MOTION),
    "demo_auto_tune": Demo("t2v", "Auto-tune", demo_ways.tuned, demo_notes.TUNE),
    "demo_calibrate": Demo("t2v", "Calibrate", demo_ways.calibrated, demo_notes.CALIBRATE),
    "demo_queue": Demo("two experts", "Queue", demo_ways.queued, demo_notes.QUEUE),
}
ACCELERATORS = ("demo_compare", "demo_attention")
"""Those that compare two videos."""


def demo_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    demo = DEMO_WORKFLOWS[name]
    canvas = Canvas(name, object_info, packs)
    measures = {"width": SIZE.width, "height": SIZE.height, "frames": SIZE.length, "fps": FPS}
    about = demo_notes.ABOUT.format(title=demo.title, **measures) + demo.about
    loader = canvas.node("FastVideoLoadDemoWan", model=demo.model, lora_strength=demo.lora_strength)
    text = bilingual(about, demo_notes_zh.about(name, **measures))
    canvas.column(columns.NOTE_WIDTH, ("Model", [loader]), note=(text, NOTE_HEIGHT))
    demo.way(canvas, loader)
    return canvas
