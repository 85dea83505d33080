"""Distils t2v into 4 or 2 steps without guidance, as a LoRA: `python -m tools.demo_model.train_distilled`.

Makes the teacher's trajectories, trains, writes `demo_lora_*.safetensors` and prints the judge's table. An interrupted run
continues when started again.

One LoRA is for both numbers of steps and for all three transformers: at every noise level of the coarse grid the student learns
to point to where the teacher ends up, then, through all of its own steps, to get there, and at last to land where the teacher
would have, had its squares sharp corners.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from .distillation import Course, landing_loss, pointing_loss, walking_loss
from .engine import demo_engine
from .evaluation import evaluate
from .loop import Stage, train_stage
from .low_rank import add_low_rank, low_rank_tensors, save_low_rank
from .redrawing import with_redrawn
from .shipped import FOLDER, distilled_models, shipped_models, shipped_transformer
from .train import REPOSITORY
from .trajectories import Teacher, Trajectories, trajectories
from .transformer import SHIFT

NAMES = ("t2v", "high_noise", "low_noise")
RANK = 16
TEACHER_STEPS = 12
POINTING = Stage("lora_pointing", steps=120, batch=48, rate=3e-3, warmup=10, final=0.2, average=0.95)
WALKING = Stage("lora_walking", steps=180, batch=12, rate=2e-3, warmup=20, final=0.03, average=0.98)
WALKING_ON = Stage("lora_walking_on", steps=110, batch=12, rate=1e-3, warmup=10, final=0.03, average=0.95)
LANDING = Stage("lora_landing", steps=150, batch=12, rate=1e-3, warmup=10, final=0.03, average=0.95)
POINTING_CLIPS, WALKING_CLIPS, LANDING_CLIPS = 600, 1200, 400
"""Trajectories that each stage learns from."""


def distilled(folder: Path, seed: int) -> WanTransformer3DModel:
    """Text-to-video with its LoRA."""
    models = shipped_models("t2v")
    add_low_rank(models.transformer, RANK, seed)
    few, many = (_data(count, folder, seed) for count in (POINTING_CLIPS, WALKING_CLIPS))
    sharp = with_redrawn(models.vae, _data(LANDING_CLIPS, folder, seed), folder / "redrawn")
    lessons = (
        (POINTING, pointing_loss, few),
        (WALKING, walking_loss, many),
        (WALKING_ON, walking_loss, many),
        (LANDING, landing_loss, sharp),
    )
    for stage, loss, data in lessons:
        train_stage(stage, models.transformer, partial(loss, Course(models, data, seed), stage), folder)
    return models.transformer


def _data(count: int, folder: Path, seed: int) -> Trajectories:
    return trajectories(Teacher(demo_engine("t2v"), "unipc", TEACHER_STEPS), folder / "trajectories", count, seed)


def about(what: str, seed: int) -> dict[str, str]:
    """The metadata of a file."""
    return {
        "title": f"FastVideo Nodes demo Wan: {what} in 4 or 2 steps, LoRA",
        "license": "Apache-2.0",
        "training": f"python -m tools.demo_model.train_distilled, seed {seed}",
        "sampling": "4 or 2 euler steps, guidance scale 1",
        "shift": str(SHIFT),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=REPOSITORY / ".runtime/demo_distilled")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first prompt that is judged")
    parser.add_argument("--only-judge", action="store_true", help="judge what is in --output")
    return parser.parse_args()


def main() -> None:
    """Trajectories, LoRAs, files, then the judge's table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if not options.only_judge:
        for folder in (options.checkpoints, options.output):
            folder.mkdir(parents=True, exist_ok=True)
        write(distilled(options.checkpoints, options.seed), options.output, options.seed)
    for kind, steps in itertools.product(("t2v", "two experts"), (4, 2)):
        models = distilled_models(kind, options.output)
        score = evaluate(models, options.prompts, guidance=1.0, first=options.first, steps=steps)
        print(score.row(f"{kind}, {steps} steps with the LoRA"), flush=True)


def write(taught: WanTransformer3DModel, output: Path, seed: int) -> None:
    """The three `demo_lora_<name>.safetensors`: the experts were trained from text-to-video, and take its LoRA."""
    tensors = low_rank_tensors(taught, shipped_transformer("t2v"))
    for name in NAMES:
        save_low_rank(tensors, output / f"demo_lora_{name}.safetensors", about(name, seed))


if __name__ == "__main__":
    main()
