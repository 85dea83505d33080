"""What few-step distilled models and LoRAs were trained to be sampled with: the whole table, some rows, or what names tell."""

import argparse
from collections.abc import Callable, Sequence

from ..errors import RequestError
from ..wan.recipe import Recipe
from ..wan.recipe_marks import recognised
from ..wan.recipes import RECIPES, recipe

HEAD = ("recipe", "steps", "noise levels", "solver", "guidance", "experts", "off")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", metavar="NAME", help="recipes to tell all about (default: a line for each)")
    parser.add_argument(
        "--recognise", nargs="+", metavar="FILE", help="names of a model's file and its LoRAs: the recipes that they may be of"
    )


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> None:
    """Raises RequestError for a recipe that there is not, and where nothing is recognised."""
    if given.recognise:
        guesses = recognised(given.recognise)
        if not guesses:
            raise RequestError(
                f"Nothing in {', '.join(given.recognise)} tells of a recipe. Give the names of the model's file and of its LoRAs."
            )
        tell("\n".join(guess.text() for guess in guesses))
    elif given.name:
        tell("\n\n".join(recipe(name).text() for name in given.name))
    else:
        tell(table(tuple(RECIPES.values())))


def table(rows: Sequence[Recipe]) -> str:
    """In Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Recipe) -> tuple[str, ...]:
    """As in `HEAD`."""
    levels = " ".join(f"{level:.4g}" for level in row.levels.sigmas[:-1])
    guidance = dict.fromkeys(f"{phase.guidance_scale:g}" for phase in row.phases)
    steps = " + ".join(map(str, row.steps_of_phases()))
    return row.name, steps, levels, row.solver, ", then ".join(guidance), ", ".join(row.experts), ", ".join(row.off) or "nothing"
