"""`python -m tools.demo_model.latent_rgb`: writes the factors by which previews of the demo show its latents as colours.

The best linear ones (least squares) between normalized latents and what they show: the mean of 8 x 8 pixels, and of the four
frames that a latent frame stands for. Wan 2.1's factors, which core has, belong to Wan 2.1's VAE.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812

from .latents import encode_normalized
from .shipped import shipped_vae
from .world import Scene, render, sample_scene

TABLE = Path(__file__).resolve().parents[2] / "assets" / "demo_latent_rgb.json"
CLIPS = 64


def shown(clips: torch.Tensor) -> torch.Tensor:
    """(B, 3, 5, 8, 8) of clips (B, 3, 17, 64, 64): the first frame, then means of four."""
    frames = F.avg_pool3d(clips, (1, 8, 8))
    return torch.cat([frames[:, :, :1], F.avg_pool3d(frames[:, :, 1:], (4, 1, 1))], dim=2)


def fitted(scenes: list[Scene]) -> torch.Tensor:
    """(17, 3): a row for each latent channel, and the bias."""
    clips, vae = render(scenes), shipped_vae()
    latents = torch.cat([encode_normalized(vae, pair) for pair in clips.split(2)]).movedim(1, -1).flatten(0, -2)
    rows = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    return torch.linalg.lstsq(rows, shown(clips).movedim(1, -1).flatten(0, -2)).solution


def main() -> None:
    torch.set_num_threads(1)
    factors = fitted([sample_scene(random.Random(f"latent colours {index}")) for index in range(CLIPS)])
    *rows, bias = [[round(value, 4) for value in row] for row in factors.tolist()]
    told = {"factors": rows, "bias": bias, "made_by": f"python -m {__spec__.name}, {CLIPS} clips"}
    TABLE.write_text(json.dumps(told) + "\n", encoding="utf-8")
    print(TABLE)


if __name__ == "__main__":
    main()
