"""What contradicts a recipe, told before anything runs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..schedule import Schedule, at_least
from .recipe import Recipe
from .recipe_marks import Guess

RULES = {"euler": "euler", "euler_float64": "euler", "dmd": "dmd", "dmd_float64": "dmd", "lcm": "dmd"}
"""Solver -> the update rule that it is, whatever the precision. "lcm" is ComfyUI's, which on a flow model is that of dmd."""
NEAR = 0.005
"""Noise levels no further apart are taken as one: tables round them to three figures."""


def contradictions(
    recipe: Recipe, schedule: Schedule, solver: str | None, *, cache: bool = False, sparse: bool = False
) -> tuple[str, ...]:
    """A sentence for each setting of a whole run that the model was not distilled for, with what to change; none where all fits.

    Args:
        solver: one of this engine's, or of a host's by its name there; None where it is not the asker's to choose.
        cache: whether a step cache is on. sparse: whether self-attention is sparse.
    """
    return (
        *_guidance(recipe, schedule),
        *_solver(recipe, solver),
        *_levels(recipe, schedule.sigmas),
        *_experts(recipe, schedule),
        *attachments(recipe, cache=cache, sparse=sparse),
    )


def told_of_guesses(
    guesses: Sequence[Guess], schedule: Schedule, solver: str | None, *, cache: bool = False, sparse: bool = False
) -> tuple[str, ...]:
    """As `contradictions`, of the guess that they are fewest of: a run that fits one of them is told nothing."""
    found = [(guess, contradictions(guess.recipe, schedule, solver, cache=cache, sparse=sparse)) for guess in guesses]
    if not found:
        return ()
    guess, told = min(found, key=lambda each: len(each[1]))
    return tuple(f"By its names the model is one of {guess.text()}. {sentence}" for sentence in told)


def why_no_cache(guesses: Sequence[Guess], schedule: Schedule) -> str:
    """Why a step cache only does harm in a run of a model that is of one of these recipes, and what helps instead; nothing where
    it may work, as in a run of more steps than the recipe's."""
    steps = round(schedule.whole_steps)  # levels that went through ComfyUI's table of 1000 tell it a hair off
    for guess in guesses:
        if "step cache" in guess.recipe.off and steps <= guess.recipe.levels.steps:
            return (
                f"by its names the model is one of {guess.text()}, in whose {guess.recipe.levels.steps} steps none resembles the "
                "one before. A faster attention backend and compiled blocks help instead."
            )
    return ""


def attachments(recipe: Recipe, *, cache: bool, sparse: bool) -> Iterator[str]:
    """Of what is on the model, whatever is asked of the sampler."""
    if cache and "step cache" in recipe.off:
        yield (
            f"A step cache is on, and {recipe.title} has {recipe.levels.steps} steps, in which none resembles the one before: in "
            "so few it stands aside. Take it off; a faster attention backend and compiled blocks help instead."
        )
    if sparse and "sparse attention" in recipe.off:
        yield (
            f"Sparse self-attention is on, and {recipe.title} was not trained with it: in {recipe.levels.steps} steps no later "
            "one mends what it leaves out. Take it off, or take a model that was trained with it."
        )


def _guidance(recipe: Recipe, schedule: Schedule) -> Iterator[str]:
    guided = [
        phase for phase in schedule.phases if phase.guided and not at_least(schedule.sigmas[phase.start], recipe.guided_until)
    ]
    if not recipe.has_base:
        guided = [phase for phase in schedule.phases if phase.guided]
    for phase in guided[:1]:
        yield (
            f"guidance_scale is {phase.guidance_scale:g}, and {recipe.title} has its guidance distilled into it: with more of it "
            f"colours burn, and each step costs twice. Set guidance_scale to {recipe.guidance_scale:g}."
        )


def _solver(recipe: Recipe, solver: str | None) -> Iterator[str]:
    if solver is not None and RULES.get(solver) != RULES[recipe.solver]:
        told = "adds fresh noise after each step" if RULES[recipe.solver] == "dmd" else "goes straight to the next level"
        yield f"solver is {solver}, and {recipe.title} {told}: set solver to {recipe.solver}."


def _levels(recipe: Recipe, sigmas: Sequence[float]) -> Iterator[str]:
    if recipe.any_steps:
        return
    levels = recipe.levels
    listed = ", ".join(f"{level:.4g}" for level in levels.sigmas)
    if len(sigmas) != len(levels.sigmas):
        yield (
            f"There are {len(sigmas) - 1} steps, and {recipe.title} was distilled for {levels.steps}: give it the noise levels "
            f"{listed} ({levels.words})."
        )
        return
    apart = [(given, level) for given, level in zip(sigmas, levels.sigmas, strict=True) if abs(given - level) > NEAR]
    for given, level in apart[:1]:
        yield (
            f"A step begins at noise level {given:.4g} where {recipe.title} has {level:.4g}: give it the noise levels {listed} "
            f"({levels.words})."
        )


def _experts(recipe: Recipe, schedule: Schedule) -> Iterator[str]:
    """Where the networks change, by levels; steps were compared before."""
    changes = [
        schedule.sigmas[after.start]
        for before, after in pairwise(schedule.phases)
        if before.expert != after.expert and after.expert == recipe.experts[-1]
    ]
    if recipe.boundary is None or len(schedule.sigmas) != len(recipe.levels.sigmas) or not changes:
        return
    own = next(level for level in recipe.levels.sigmas if not at_least(level, recipe.boundary))
    if abs(changes[-1] - own) > NEAR:
        yield (
            f"The low-noise expert begins at noise level {changes[-1]:.4g}, and that of {recipe.title} at {own:.4g}: set "
            f"boundary to {recipe.boundary:g}."
        )
