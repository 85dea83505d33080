"""Distils t2v and the two experts into 4 or 2 steps without guidance, as LoRAs: `python -m tools.demo_model.train_distilled`.

Makes the teachers' trajectories, trains, writes `demo_lora_*.safetensors` and prints the judge's table. An interrupted run
continues when started again.

One LoRA is for both numbers of steps: at every noise level of the coarse grid the student learns to point to where the teacher
ends up, and then, through all of its own steps, to get there.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import nn

from fastvideo_core.wan.demo import DemoKind

from .distillation import Course, pointing_loss, walking_loss
from .engine import demo_engine
from .evaluation import evaluate
from .loop import Stage, train_stage
from .low_rank import add_low_rank, continue_low_rank, low_rank_tensors, save_low_rank
from .sampling import DemoModels
from .shipped import FOLDER, distilled_models, shipped_models, shipped_transformer
from .train import REPOSITORY
from .trajectories import Teacher, Trajectories, trajectories
from .transformer import SHIFT

RANK = 16
TEACHER_STEPS = 12
POINTING = Stage("lora_pointing", steps=120, batch=48, rate=3e-3, warmup=10, final=0.2, average=0.95)
WALKING = Stage("lora_walking", steps=180, batch=12, rate=2e-3, warmup=20, final=0.03, average=0.98)
WALKING_ON = Stage("lora_walking_on", steps=110, batch=12, rate=1e-3, warmup=10, final=0.03, average=0.95)
WALKING_PAIR = Stage("lora_walking_pair", steps=80, batch=12, rate=1e-3, warmup=10, final=0.03, average=0.95)
POINTING_CLIPS, WALKING_CLIPS, PAIR_CLIPS = 600, 1200, 320
"""Trajectories that each stage learns from."""


def walking_text_to_video(folder: Path, seed: int) -> Course:
    """Text-to-video with a LoRA that can walk, before its last stage."""
    models = shipped_models("t2v")
    add_low_rank(models.transformer, RANK, seed)
    first = Course(models, _data("t2v", POINTING_CLIPS, folder, seed), seed)
    train_stage(POINTING, models.transformer, lambda step: pointing_loss(first, POINTING, step), folder)
    course = Course(models, _data("t2v", WALKING_CLIPS, folder, seed), seed)
    walk(WALKING, models.transformer, course, folder)
    return course


def walking_experts(text_to_video: WanTransformer3DModel, folder: Path, seed: int) -> DemoModels:
    """Both experts with their LoRAs, which begin as that of `text_to_video`, from which the experts were trained."""
    models, base = shipped_models("two experts"), shipped_transformer("t2v")
    experts = nn.ModuleList([models.transformer, models.low_noise])
    for expert in experts:
        add_low_rank(expert, RANK, seed)
        continue_low_rank(expert, text_to_video, base)
    walk(WALKING_PAIR, experts, Course(models, _data("two experts", PAIR_CLIPS, folder, seed), seed), folder)
    return models


def walk(stage: Stage, trained: nn.Module, course: Course, folder: Path) -> None:
    train_stage(stage, trained, lambda step: walking_loss(course, stage, step), folder)


def _data(kind: DemoKind, count: int, folder: Path, seed: int) -> Trajectories:
    return trajectories(Teacher(demo_engine(kind), "unipc", TEACHER_STEPS), folder / "trajectories", count, seed)


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
        train_all(options.checkpoints, options.output, options.seed)
    for kind, steps in itertools.product(("t2v", "two experts"), (4, 2)):
        models = distilled_models(kind, options.output)
        score = evaluate(models, options.prompts, guidance=1.0, first=options.first, steps=steps)
        print(score.row(f"{kind}, {steps} steps with the LoRA"), flush=True)


def train_all(checkpoints: Path, output: Path, seed: int) -> None:
    """Writes the three LoRAs."""
    course = walking_text_to_video(checkpoints, seed)
    text = course.models.transformer
    experts = walking_experts(text, checkpoints, seed)
    write(experts.transformer, "high_noise", output, seed)
    write(experts.low_noise, "low_noise", output, seed)
    walk(WALKING_ON, text, course, checkpoints)
    write(text, "t2v", output, seed)


def write(taught: WanTransformer3DModel, name: str, output: Path, seed: int) -> None:
    """`demo_lora_<name>.safetensors`."""
    base = shipped_transformer(name)
    save_low_rank(low_rank_tensors(taught, base), output / f"demo_lora_{name}.safetensors", about(name, seed))


if __name__ == "__main__":
    main()
