"""Captions in varied wording that name the shape, both colours and the motion of a scene, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import product

from .world import BACKGROUND_COLOURS, MOTIONS, OBJECT_COLOURS, SHAPES

MOVING = (
    "moving {motion}",
    "moves {motion}",
    "slides {motion}",
    "sliding {motion}",
    "drifts {motion}",
    "going {motion}",
    "travels {motion}",
)
SIDEWAYS = ("moves to the {motion}", "moving to the {motion}", "slides to the {motion}", "goes to the {motion}")
VERTICAL = ("moves {motion}wards", "moving {motion}ward", "drifts {motion}wards")
STILL = ("stands still", "standing still", "does not move", "stays in place", "is still", "resting, still")
GROWING = ("growing", "grows", "is growing", "gets bigger", "getting larger", "becomes bigger", "expands")
SHRINKING = ("shrinking", "shrinks", "is shrinking", "gets smaller", "getting smaller", "becomes smaller")
PHRASES = {
    "left": MOVING + SIDEWAYS,
    "right": MOVING + SIDEWAYS,
    "up": MOVING + VERTICAL,
    "down": MOVING + VERTICAL,
    "still": STILL,
    "growing": GROWING,
    "shrinking": SHRINKING,
}
TEMPLATES = (
    "a {colour} {shape}[ {motion}][ over a {background} background]",
    "a {colour} {shape}[ {motion}][ on a {background} background]",
    "A {colour} {shape}[ {motion}][ on {background}].",
    "the {colour} {shape}[ {motion}][, {background} background]",
    "[{background} background, ]a {colour} {shape}[ {motion}]",
    "[On a {background} background, ]a {colour} {shape}[ {motion}].",
    "a video of a {colour} {shape}[, it {motion}][, the background is {background}]",
    "{colour} {shape}[ {motion}][, {background} background]",
    "one {colour} {shape}[ in front of a {background} background][, the {shape} {motion}]",
    "a {shape}[ {motion}][. The {shape} is {colour}][ and the background is {background}].",
)
"""What stands in brackets is left out together with the attribute that it names."""
ATTRIBUTES = ("shape", "colour", "background", "motion")
"""In the order of a combination."""
DEFAULTS = ("circle", "red", "gray", "still")
"""What a caption that leaves one of them out stands for."""
UNNAMED = {"shape": "shape", "colour": ""}
"""The word that stands for it where it is left out."""
BARE = 1 / 3
"""Share of the shortened captions that are bare words."""


def caption(combination: tuple[str, str, str, str], rng: random.Random) -> str:
    """Words (shape, colour, background, motion) in one of many ways."""
    phrase = rng.choice(PHRASES[combination[3]])
    return _filled(rng.choice(TEMPLATES), combination, phrase, ATTRIBUTES)


def shortened(combination: tuple[str, str, str, str], said: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """A caption that names those attributes of `combination` which are `said`, and the same one in full. Some are bare words,
    such as "red circle" or "circle left"."""
    phrases, template = PHRASES[combination[3]], rng.choice(TEMPLATES)
    phrase = rng.choice(phrases) if "motion" in said else phrases[0]
    if rng.random() < BARE:
        words = _bare(combination, said, rng.choice(("{motion}", phrase)), rng)
        return words, _filled(TEMPLATES[0], combination, phrase, ATTRIBUTES)
    return _filled(template, combination, phrase, said), _filled(template, combination, phrase, ATTRIBUTES)


def _filled(template: str, combination: tuple[str, str, str, str], phrase: str, said: Sequence[str]) -> str:
    words = {name: value if name in said else UNNAMED.get(name, "") for name, value in zip(ATTRIBUTES, combination, strict=True)}
    words["motion"] = phrase.format(motion=combination[3])

    def kept(part: re.Match[str]) -> str:
        names = re.findall(r"{(\w+)}", part[1])
        return part[1] if all(name in said for name in names if name != "shape") else ""

    text = re.sub(r"\[(.*?)\]", kept, template)
    return re.sub(" +", " ", text.format(**words)).strip()


def _bare(combination: tuple[str, str, str, str], said: Sequence[str], phrase: str, rng: random.Random) -> str:
    values = dict(zip(ATTRIBUTES, combination, strict=True))
    forms = {
        "colour": values["colour"],
        "shape": values["shape"],
        "motion": phrase.format(motion=values["motion"]),
        "background": rng.choice(("on {0}", "{0} background", "over {0}")).format(values["background"]),
    }
    return " ".join(form for name, form in forms.items() if name in said)


def corpus() -> list[str]:
    """Every wording at least once, to train the tokenizer on."""
    rng = random.Random(0)
    combinations = list(product(SHAPES, OBJECT_COLOURS, BACKGROUND_COLOURS, MOTIONS))
    return [caption(combination, rng) for combination in combinations for _ in range(4)]
