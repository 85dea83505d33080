"""Trains every demo model from nothing and writes them: `python -m tools.demo_model.train`.

An interrupted run continues from its checkpoints when started again. Works on two CPU cores or on a GPU.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from .engine import KINDS
from .evaluation import evaluate, evaluate_shortened, psnr
from .export import save_text_encoder, save_transformer, save_vae
from .latents import cached_latents, settle_statistics, with_images
from .sampling import GUIDANCE, STEPS, DemoModels
from .shipped import shipped_models
from .text import PromptEncoder, train_tokenizer
from .train_defaults import LEFT_OUT, readers, shortened_clips, train_defaults
from .train_text import train_text
from .train_transformers import (
    BOUNDARY,
    Course,
    TextToVideo,
    high_noise,
    image_to_video,
    low_noise,
    polished,
    train_text_to_video,
)
from .train_vae import train_vae
from .transformer import SHIFT, build_transformer
from .vae import build_vae, decode, encode
from .world import render, sample_scene

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "1"
CLIPS = 6000  # encoded once, with and without their later frames; the transformers learn from these
MEASURED_CLIPS = 64
SHORTENED_PROMPTS = 60
SMALLEST_PSNR = 30.0  # dB on held-out clips; below it the transformers would learn a blurred world


def arguments() -> argparse.Namespace:
    """Where to work, on what, and how many prompts to judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=REPOSITORY / ".runtime/demo_model")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "models/demo")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument(
        "--only-defaults", action="store_true", help="the text encoder's last stages, from the weights in --output"
    )
    return parser.parse_args()


def trained_vae(options: argparse.Namespace) -> AutoencoderKLWan:
    """The trained VAE with Wan's latent statistics; raises ValueError if it reconstructs too badly to go on."""
    torch.manual_seed(options.seed)
    vae, settled = build_vae().to(options.device), options.checkpoints / "vae.pt"
    if not settled.exists():
        train_vae(vae, options.checkpoints, options.seed)
        settle_statistics(vae, scenes(64, held_out=False).to(options.device))
        torch.save(vae.state_dict(), settled)
        quality = reconstruction_psnr(vae)
        print(f"VAE: {quality:.2f} dB on {MEASURED_CLIPS} held-out clips", flush=True)
        if quality < SMALLEST_PSNR:
            raise ValueError(f"the VAE reaches {quality:.1f} dB, {SMALLEST_PSNR} dB are needed: train it for more steps")
    vae.load_state_dict(torch.load(settled, weights_only=True))
    return vae.requires_grad_(False)


def scenes(count: int, held_out: bool) -> torch.Tensor:
    """Rendered clips, (count, 3, 17, 64, 64)."""
    rng = random.Random(f"clips {held_out}")
    return render([sample_scene(rng, held_out) for _ in range(count)])


@torch.no_grad()
def reconstruction_psnr(vae: torch.nn.Module) -> float:
    """Mean PSNR in dB over held-out clips, encoded to their means and decoded."""
    values = []
    for clips in scenes(MEASURED_CLIPS, held_out=True).to(vae.device).split(8):
        rebuilt = decode(vae, encode(vae, clips)).clamp(-1, 1)
        values += [psnr(one, clip) for one, clip in zip(rebuilt, clips, strict=True)]
    return sum(values) / len(values)


def about(what: str, options: argparse.Namespace) -> dict[str, str]:
    """The metadata of a file: what it is, how it was trained, how to sample."""
    return {
        "title": f"FastVideo Nodes demo Wan: {what}",
        "version": VERSION,
        "license": "Apache-2.0",
        "training": f"python -m tools.demo_model.train on a synthetic world of moving shapes, seed {options.seed}",
        "sampling": f"{STEPS} euler steps, guidance scale {GUIDANCE}",
        "shift": str(SHIFT),
        "boundary": str(BOUNDARY),
    }


def main() -> None:
    """The VAE, the text encoder with text-to-video, the models that start from it, then the judge's table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    for folder in (options.checkpoints, options.output):
        folder.mkdir(parents=True, exist_ok=True)
    if options.only_defaults:
        finish({kind: shipped_models(kind, options.output) for kind in KINDS}, options)
        return
    vae = trained_vae(options)
    save_vae(vae, options.output / "demo_wan_vae.safetensors", about("VAE", options))
    latents = cached_latents(vae, options.checkpoints / "clips.pt", CLIPS, options.seed)

    torch.manual_seed(options.seed)
    base = TextToVideo(PromptEncoder(train_tokenizer()), build_transformer()).to(options.device)
    train_text(base.prompts, options.checkpoints, options.seed)
    course = Course(latents, options.checkpoints, options.seed, vae)
    train_text_to_video(base, course)
    save_text_encoder(base.prompts, options.output / "demo_umt5.safetensors", about("text encoder", options))

    text = polished(base, course)
    save(text.transformer, "t2v", options)
    with_first_frames = replace(course, latents=with_images(vae, latents, options.checkpoints / "images.pt"))
    image = image_to_video(base, with_first_frames)
    save(image, "i2v", options)
    high, low = high_noise(text, course), low_noise(text, course)
    save(high, "high_noise", options)
    save(low, "low_noise", options)

    by_kind = (
        DemoModels(vae, base.prompts, text.transformer),
        DemoModels(vae, base.prompts, image),
        DemoModels(vae, base.prompts, high, low, BOUNDARY),
    )
    finish(dict(zip(KINDS, by_kind, strict=True)), options)


def finish(models: dict[str, DemoModels], options: argparse.Namespace) -> None:
    """Teaches the text encoder, which all share, what shortened captions stand for; then the judge's table."""
    text, image, two = (models[kind] for kind in KINDS)
    clips = shortened_clips(text.vae, options.checkpoints, options.seed)
    taught_by = readers(text.transformer, image.transformer, two.transformer, two.low_noise)
    train_defaults(text.prompts, taught_by, clips, options.checkpoints, options.seed)
    save_text_encoder(text.prompts, options.output / "demo_umt5.safetensors", about("text encoder", options))
    for kind in KINDS:
        report(kind, replace(models[kind], prompts=text.prompts), options, image=kind == "i2v")


def save(transformer: WanTransformer3DModel, name: str, options: argparse.Namespace) -> None:
    """Writes `demo_wan_<name>.safetensors`."""
    save_transformer(transformer, options.output / f"demo_wan_{name}.safetensors", about(name, options))


def report(name: str, models: DemoModels, options: argparse.Namespace, image: bool = False) -> None:
    """Prints the model's row of the table: with guidance, then without."""
    for label, score in (
        (name, evaluate(models, options.prompts, image)),
        (f"{name}, no guidance", evaluate(models, options.prompts, image, guidance=1.0)),
        *((f"{name}, no {left_out}", evaluate_shortened(models, SHORTENED_PROMPTS, left_out, image)) for left_out in LEFT_OUT),
    ):
        print(score.row(label), flush=True)


if __name__ == "__main__":
    main()
