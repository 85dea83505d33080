"""`python -m tools.first_screen`: the moving picture of README's first screen, and the pack's icon and banner, of the demo model.

The same prompts and seeds three times: dense, through MagCache, and in 4 steps with the few-step LoRA. The seconds are of
sampling, without text and VAE, in this process and with one thread: of several rounds, in which the three take turns, the
fastest of each.
"""

import json
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from fastvideo_core import Measured, WanModel, against, apply_lora, load_demo, measure, recipe, with_magcache
from fastvideo_core.pictures import save_png, side_by_side
from fastvideo_core.pictures.figure import new_figure, pixels
from fastvideo_core.request import SamplingRequest
from fastvideo_core.wan.demo import FOLDER
from tools.bench.page import processor
from tools.runtime.pins import ROOT

ASSETS = ROOT / "assets"
PROMPTS = (
    "a red circle moving right on a navy background",
    "a yellow triangle moving up on a teal background",
    "a green square growing on a white background",
)
ROUNDS, SEED, STEPS, FPS, ENLARGED = 5, 1, 20, 16, 4
NAVY, INK = "#141e5a", "#e8eaed"
ICON, BANNER = 400, (1260, 540)
Make = Callable[[str], Measured]


def contenders() -> dict[str, Make]:
    """Each makes the video of a prompt."""
    plain, distilled = load_demo(), load_demo()
    apply_lora(distilled.transformers["single"], FOLDER / "demo_lora_t2v.safetensors")
    dense = SamplingRequest(steps=STEPS, shift=5.0, guidance_scale=3.0, seed=SEED)
    few = recipe("lightx2v_wan2.1").request(seed=SEED)

    def made(model: WanModel, request: SamplingRequest, cache: object = None) -> Make:
        size = model.video_size(width=64, height=64, frames=17)
        return lambda prompt: measure(model, model.condition(prompt, "", size), size, request, cache)

    return {"dense": made(plain, dense), "MagCache": made(plain, dense, with_magcache()), "4 steps": made(distilled, few)}


def enlarged(frames: Tensor) -> Tensor:
    """(T, 3, 256, 256) of frames (T, 3, 64, 64), each pixel a square."""
    return frames.repeat_interleave(ENLARGED, dim=2).repeat_interleave(ENLARGED, dim=3)


def moving_picture(runs: dict[str, list[Measured]], seconds: dict[str, float]) -> None:
    """All prompts, one after the other."""
    pairs = zip(runs["dense"], runs["MagCache"], strict=True)
    similar = sum(against(*pair).mean.ssim for pair in pairs) / len(PROMPTS)
    told = {"MagCache": f", SSIM {similar:.3f}", "4 steps": " (LoRA)"}
    names = {f"{name}, {seconds[name]:.2f} s{told.get(name, '')}": runs[name] for name in runs}
    parts = [side_by_side({name: enlarged(run[at].frames) for name, run in names.items()}) for at in range(len(PROMPTS))]
    frames = [image(frame) for part in parts for frame in part]
    frames[0].save(
        ASSETS / "first_screen.webp", save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, quality=80, method=6
    )


def image(frame: Tensor) -> Image.Image:
    """frame: (3, H, W) in 0..1."""
    return Image.fromarray((frame.movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy())


def icon(frames: Tensor) -> None:
    """The shape where it was, was, and is."""
    ground = frames[0, :, :1, :1]
    trail = sum(share * (frames[place] - ground) for share, place in ((0.35, 0), (0.6, 8), (1.0, 16))) + ground
    image(trail).resize((ICON, ICON), Image.Resampling.LANCZOS).save(ASSETS / "icon.png", optimize=True)


def banner(frames: Sequence[Tensor]) -> None:
    width, height = BANNER
    figure = new_figure(width, height)
    figure.set_facecolor(NAVY)
    figure.text(0.05, 0.8, "FastVideo Nodes", color=INK, fontsize=54, va="center", weight="bold")
    figure.text(0.05, 0.64, "Fast Wan video generation in ComfyUI, with proof", color=INK, fontsize=25, va="center")
    for place, frame in enumerate(frames):
        axes = figure.add_axes((0.05 + 0.182 * place, 0.1, 0.172, 0.172 * width / height))
        axes.imshow(frame.movedim(0, -1).numpy(), interpolation="lanczos")
        axes.set_axis_off()
    save_png(pixels(figure), ASSETS / "banner.png")


def main() -> None:
    torch.set_num_threads(1)
    making = contenders()
    rounds = [{name: make(PROMPTS[0]).seconds for name, make in making.items()} for _ in range(ROUNDS)]
    seconds = {name: min(each[name] for each in rounds) for name in making}
    runs = {name: [make(prompt) for prompt in PROMPTS] for name, make in making.items()}
    moving_picture(runs, seconds)
    frames = runs["dense"][0].frames
    icon(frames)
    banner(frames[::4])
    print(json.dumps({"machine": f"one thread of {processor()}", "seconds": seconds, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
