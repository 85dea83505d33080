"""The settings that a MODEL's authors sample it with, from the two tables: few-step recipes and published checkpoints."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastvideo_core import RequestError, WanVariant

from .facts import WanFacts, wan_facts
from .marks import Marks

GIVEN, AUTHORS = "as given", "as the model's authors"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """values: inputs of FastVideo Sampler by name; note: whose they are, for the report."""

    values: Mapping[str, Any]
    note: str


def preset_of(experts: Sequence[Any], marks: Marks, latent: Mapping[str, Any]) -> Preset:
    """Of these MODELs, one or two, for a video of this LATENT's size.

    Raises:
        RequestError: neither names nor measures tell whose settings they would be.
    """
    guesses = [guess for guess in marks.guesses(experts) if not guess.recipe.engine_only]
    if guesses:
        return _of_recipe(guesses[0])
    facts, samples = wan_facts(experts[0]), latent.get("samples")
    row = published(facts, len(experts) > 1, *(samples.shape[-2:] if isinstance(samples, torch.Tensor) else (0, 0)))
    if row is None:
        raise RequestError(f"settings is {AUTHORS!r}, and {unpublished(experts)}. Set settings to {GIVEN!r}.")
    return of_variant(row)


def unpublished(experts: Sequence[Any]) -> str:
    """In an error."""
    facts = wan_facts(experts[0])
    return (
        "neither the names of its files and LoRAs nor its measures tell of a published model: "
        f"{facts.layers} blocks of width {facts.dim}, {facts.in_channels} input channels, {len(experts)} expert(s)"
    )


def published(facts: WanFacts, two_experts: bool, height: int, width: int) -> WanVariant | None:
    """The checkpoint of these measures; of several, the one that is made for the size nearest to these latents'."""
    rows = facts.variants(two_experts) if facts.plain else []
    return min(rows, key=lambda row: abs(row.height * row.width - height * width * row.spatial**2), default=None)


def published_by_name(facts: WanFacts, two_experts: bool, names: Collection[str]) -> WanVariant | None:
    """The same where no size of a video is known: the one whose 480P or 720P is in a file's name, else the smallest."""
    rows = facts.variants(two_experts) if facts.plain else []
    named = [row for row in rows if any(size in name.lower() for name in names for size in re.findall(r"\d+p", row.name))]
    return min(named or rows, key=lambda row: row.height * row.width, default=None)


def _of_recipe(guess: Any) -> Preset:
    row = guess.recipe
    values = {
        "steps": row.levels.steps, "solver": row.solver, "guidance_scale": row.guidance_scale,
        "low_noise_guidance_scale": row.guidance_scale, "boundary": row.boundary,
        "sigmas": torch.tensor(row.levels.sigmas, dtype=torch.float32, device="cpu"),
    }  # fmt: skip
    return Preset(values=values, note=f"settings of recipe {guess.text()}")


def of_variant(row: WanVariant) -> Preset:
    """As a published checkpoint's authors sample it."""
    low = row.low_noise_guidance_scale
    values = {
        "steps": row.steps, "shift": row.shift, "solver": "unipc", "guidance_scale": row.guidance_scale,
        "low_noise_guidance_scale": row.guidance_scale if low is None else low, "boundary": row.boundary,
    }  # fmt: skip
    return Preset(values=values, note=f"settings as {row.title}'s authors: shift {row.shift:g}, {row.steps} steps, unipc")
