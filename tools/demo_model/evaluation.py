"""Measures the models by the judge on prompts whose combinations were never trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from .captions import ATTRIBUTES, DEFAULTS, caption, shortened
from .judge import Verdict, judge
from .sampling import GUIDANCE, STEPS, DemoModels, generate
from .world import Scene, render, sample_scene

BATCH = 20
FIRST_SEED = 1000
SHORTENED_SEED = 7000
VALIDATED = 100


@dataclass(frozen=True)
class Score:
    """Shares, 0..1, of clips of which the judge reads what was asked; `first_frame` is a PSNR in dB or None."""

    colours: float
    shape: float
    motion: float
    everything: float
    first_frame: float | None

    def row(self, name: str) -> str:
        """The score as a row of the model card's table."""
        shares = " | ".join(f"{100 * share:.1f} %" for share in (self.colours, self.shape, self.motion, self.everything))
        frame = "-" if self.first_frame is None else f"{self.first_frame:.1f} dB"
        return f"| {name} | {shares} | {frame} |"


def held_out_prompts(count: int) -> tuple[list[Scene], list[str]]:
    """Scenes of held-out combinations, and a caption of each."""
    return _prompts(count, held_out=True)


def _prompts(count: int, held_out: bool) -> tuple[list[Scene], list[str]]:
    rng = random.Random("held out" if held_out else "validation")
    scenes = [sample_scene(rng, held_out) for _ in range(count)]
    return scenes, [caption(scene.combination, rng) for scene in scenes]


def validate(models: DemoModels, image: bool = False, guidance: float = GUIDANCE) -> float:
    """What training is steered by: the share of `VALIDATED` clips that show all that was asked, plus a tenth of the shares of
    shapes and motions, which tells equals apart. Scenes and seeds are new, the combinations are those of training."""
    score = evaluate(models, VALIDATED, image, guidance, held_out=False)
    return score.everything + (score.shape + score.motion) / 10


def evaluate_shortened(models: DemoModels, count: int, left_out: str, image: bool = False) -> Score:
    """As `evaluate`, of captions that leave one attribute out: the default is what counts as right."""
    rng = random.Random(f"without {left_out}")
    said = tuple(name for name in ATTRIBUTES if name != left_out)
    scenes = [replace(sample_scene(rng), **{left_out: DEFAULTS[ATTRIBUTES.index(left_out)]}) for _ in range(count)]
    texts = [shortened(scene.combination, said, rng)[0] for scene in scenes]
    return _score(models, scenes, texts, range(SHORTENED_SEED, SHORTENED_SEED + count), image)


def evaluate(
    models: DemoModels,
    count: int,
    image: bool = False,
    guidance: float = GUIDANCE,
    negative: str = "",
    held_out: bool = True,
    first: int = 0,
    steps: int = STEPS,
) -> Score:
    """Generates `count` clips, from prompt `first` on, and judges them; with `image`, the first frame of the scene is given."""
    scenes, texts = (values[first:] for values in _prompts(first + count, held_out))
    seeds = range(FIRST_SEED + first, FIRST_SEED + first + count)
    return _score(models, scenes, texts, seeds, image, guidance, negative, steps)


def _score(
    models: DemoModels,
    scenes: list[Scene],
    texts: list[str],
    seeds: range,
    image: bool,
    guidance: float = GUIDANCE,
    negative: str = "",
    steps: int = STEPS,
) -> Score:
    hits, errors = [], []
    for start in range(0, len(scenes), BATCH):
        part = slice(start, start + BATCH)
        given = render(scenes[part]).to(models.transformer.device) if image else None
        clips = generate(models, texts[part], list(seeds[part]), guidance, negative, given, steps).cpu()
        hits += [_hits(scene, read(clip)) for scene, clip in zip(scenes[part], clips, strict=True)]
        if given is not None:
            errors += [psnr(clip[:, 0], frame[:, 0]) for clip, frame in zip(clips, given.cpu(), strict=True)]
    shares = torch.tensor(hits, dtype=torch.float64)
    colours, shape, motion = shares.mean(0).tolist()
    first_frame = sum(errors) / len(errors) if errors else None
    return Score(colours, shape, motion, shares.all(1).double().mean().item(), first_frame)


def read(clip: torch.Tensor) -> Verdict:
    """The judge's verdict on a clip (3, frames, height, width) in [-1, 1], rounded to 8 bits as a saved video would be."""
    return judge(((clip + 1) * 127.5).round().permute(1, 2, 3, 0).numpy())


READ = ("shape", "colour", "background", "motion")
"""What every prompt names."""


def readings(scenes: list[Scene], frames: torch.Tensor) -> int:
    """How many of the four things that each prompt names the judge reads from its clip. frames: (B, frames, 3, H, W) in 0..1."""
    verdicts = [read(clip.transpose(0, 1) * 2 - 1) for clip in frames]
    return sum(
        getattr(verdict, name) == getattr(scene, name) for scene, verdict in zip(scenes, verdicts, strict=True) for name in READ
    )


def _hits(scene: Scene, verdict: Verdict) -> tuple[bool, bool, bool]:
    colours = (verdict.colour, verdict.background) == (scene.colour, scene.background)
    return colours, verdict.shape == scene.shape, verdict.motion == scene.motion


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of tensors in [-1, 1]."""
    return float(10 * torch.log10(4 / (image - reference).square().mean()))
