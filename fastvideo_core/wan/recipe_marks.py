"""By what a model is recognised as one of a recipe: the names of its files and LoRAs, and of its tensors. Guesses, never more."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..schedule import PhaseSettings
from .loading.lora_strengths import AppliedLora
from .recipe import Recipe
from .recipes import RECIPES

KIND = re.compile(r"(?<![a-z])(ti2v|flf2v|t2v|i2v)(?![a-z])")
GENERATION = re.compile(r"wan[-_]?2[._-]?([12])(?![0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Guess:
    """why: each mark that was found, in words."""

    recipe: Recipe
    why: tuple[str, ...]

    def text(self) -> str:
        return f"{self.recipe.name} ({self.recipe.title}), for {'; '.join(self.why)}"


def recognised(
    names: Collection[str],
    tensors: Collection[str] = (),
    *,
    experts: int | None = None,
    networks: Collection[str] = (),
    with_base: bool = False,
) -> tuple[Guess, ...]:
    """The recipes that a model may be of, best first; none where nothing tells of one.

    Args:
        names: of the files of the model and of its LoRAs, with folders or without.
        tensors: names of weights in them.
        experts: how many the model has, where that is known.
        networks: names of `VARIANTS` that it may be by its measures, where that is known.
        with_base: whether the high-noise expert is there without its LoRA too, for recipes that begin with it.
    """
    files = [PurePath(name.replace("\\", "/")).name for name in names]
    fitting = [row for row in RECIPES.values() if row.has_base == with_base and _fits(row, files, experts, networks)]
    guesses = [(row, tuple(_marks(row, files, tensors))) for row in fitting]
    found = [(row, why) for row, why in guesses if why]
    ranked = sorted(found, key=lambda guess: -len(guess[1]) - _same_generation(guess[0], files))
    return tuple(Guess(row, why) for row, why in ranked)


def recognised_by_loras(
    model: str, loras: Iterable[AppliedLora], phases: Iterable[PhaseSettings], experts: int
) -> tuple[Guess, ...]:
    """As `recognised`, of a model of this name in a run of these phases, with LoRAs applied to its experts."""
    strengths = {lora.name: lora.strength for lora in loras}
    left_out = {name for phase in phases for name, strength in phase.loras.items() if strength == 0}
    names = [model, *(name for name, strength in strengths.items() if strength != 0)]
    return recognised(names, experts=experts, with_base=bool(left_out & strengths.keys()))


def _fits(row: Recipe, files: Sequence[str], experts: int | None, networks: Collection[str]) -> bool:
    if experts is not None and experts != len(row.experts):
        return False
    if networks:
        return bool(set(networks) & set(row.networks))
    kinds = {kind for file in files for kind in KIND.findall(file.lower())}
    return not kinds or any(f"_{kind}_" in network for kind in kinds | _also(kinds) for network in row.networks)


def _also(kinds: Collection[str]) -> set[str]:
    """First and last frame is image-to-video of Wan 2.2's networks; LoRAs of the 5B are called either."""
    return ({"i2v"} if "flf2v" in kinds else set()) | ({"ti2v"} if {"t2v", "i2v"} & set(kinds) else set())


def _marks(row: Recipe, files: Sequence[str], tensors: Collection[str]) -> Iterator[str]:
    for file in files if row.names else ():
        found = [re.search(pattern, file, re.IGNORECASE) for pattern in row.names]
        if all(found):
            yield from (f"{match[0]!r} in the name {file}" for match in found if match)
            break
    for pattern in row.tensors:
        tensor = next((name for name in tensors if re.search(pattern, name)), None)
        if tensor is not None:
            yield f"the tensor {tensor}"


def _same_generation(row: Recipe, files: Sequence[str]) -> bool:
    """Whether a file is called after the Wan that the recipe is of."""
    generations = {f"wan2.{digit}" for file in files for digit in GENERATION.findall(file)}
    generations |= {"wan2.2" for file in files if "a14b" in file.lower()}
    return any(network.startswith(tuple(generations)) for network in row.networks) if generations else False
