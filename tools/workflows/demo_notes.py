"""What the notes of the demo workflows say."""

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

### If a step takes seconds
Steps take a fraction of one. On a CPU whose cores others use too, torch's threads wait for each other at full speed: \
start ComfyUI with `OMP_WAIT_POLICY=PASSIVE` in its environment.
"""
IMAGE = """
### First frame
The loader gives one. For another, connect *Load Image* in its place: one flat shape over a flat background.
"""
_COMPARISON = """
### What is compared
The same prompt and seed twice: left as the model is, right with *FastVideo {accelerator}*. *FastVideo Compare* tells how much \
time that saved and how far the videos differ. Put other accelerators, or other settings, in its place.
"""
ATTENTION = """
FastVideo Attention changes nothing but rounding: it reads the empty rows of the prompt as one, which is most of what so small \
a video costs. At 480p and above the attention kernel that it chooses is what counts.
"""
PHASES = """
### Three phases
The high-noise expert with guidance settles what the video shows, then goes on without, at half the work; the low-noise expert \
finishes. Each *FastVideo Phase* is one of them: give each a model with the LoRAs that it shall have, and the noise level down \
to which it works.
"""
EXPERTS = """
### Two experts
As Wan 2.2 A14B has them: the high-noise expert works down to the *boundary*, the low-noise one from there. One sampler runs \
both, and loads the second one when its turn comes.
"""
FEW_STEPS = """
### Few steps
*lora_strength* 1 puts on the LoRA that came with the demo model: 4 steps without guidance in the place of 20 with it, about a \
tenth of the work. *FastVideo Recipe* gives what such LoRAs are sampled with; those of published models it recognises by their \
names. The plain run is *FastVideo_demo_t2v*.
"""
MOTION = """
### More motion
Four steps without guidance, which move less than twenty with it. *FastVideo Image Motion* brings the motion back; amplitude 1 \
changes nothing.
"""
TUNE = """
### Auto-tune
One full run, then three or four through a step cache: *FastVideo Auto-tune* finds the settings that save most and keep the \
video as like as you want (*target_ssim*). The model that comes out of it has them.
"""
CALIBRATE = """
### Calibrate
One full run in which *FastVideo Calibrate MagCache* measures how the steps resemble each other. The table lies in \
`models/fastvideo_ratios`, and *FastVideo MagCache* finds it for these weights from then on. Published models have theirs \
already.
"""
QUEUE = """
### Many prompts
A list of prompts in, a list of videos out. All make their steps of the first phase's model, then all those of the next one: \
each model is loaded once, however many prompts there are. *Create List* takes more of them.
"""


def comparison(accelerator: str) -> str:
    return _COMPARISON.format(accelerator=accelerator)
