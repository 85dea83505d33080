"""The demo workflows: the small Wan that comes with the pack, which makes a video on any CPU."""

from tools.workflows.canvas import Canvas, ObjectInfo, PackVersions
from tools.workflows.columns import Loaded, VideoSize, image_columns, noise_columns, sampling_columns

SIZE, FPS = VideoSize(64, 64, 17), 16
PROMPT = "a red circle moving right on a navy background"
FIRST_FRAME = "fastvideo_demo_first_frame.png"
SETTINGS = {"steps": 20, "shift": 5.0, "solver": "euler", "guidance_scale": 3.0}
NOTE_SIZE = (360, 420)
DEMO_WORKFLOWS = {"demo_t2v": "t2v", "demo_i2v": "i2v"}

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
Copy `assets/demo_first_frame.png` of the pack into ComfyUI's `input` folder as `{name}`, or choose a picture of your own.
"""


def demo_canvas(name: str, object_info: ObjectInfo, packs: PackVersions) -> Canvas:
    """Text to video or image to video with the demo model."""
    canvas = Canvas(name, object_info, packs)
    from_image = DEMO_WORKFLOWS[name] == "i2v"
    about = ABOUT.format(title="I2V" if from_image else "T2V", width=SIZE.width, height=SIZE.height, frames=SIZE.length, fps=FPS)
    canvas.note(about + (ABOUT_IMAGE.format(name=FIRST_FRAME) if from_image else ""), NOTE_SIZE)
    demo = canvas.node("FastVideoLoadDemoWan", model=DEMO_WORKFLOWS[name])
    canvas.column("Models", demo)
    loaded = Loaded([demo["model"]], demo["clip"], demo["vae"])
    if from_image:
        conditions = image_columns(canvas, loaded, (PROMPT, ""), SIZE, FIRST_FRAME)
    else:
        conditions = noise_columns(canvas, loaded, (PROMPT, ""), SIZE)
    sampling_columns(canvas, loaded, FPS, **conditions, **SETTINGS)
    return canvas
