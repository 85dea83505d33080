"""Captions in varied wording that name the shape, both colours and the motion of a scene, and nothing else."""

from __future__ import annotations

import random
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
    "a {colour} {shape} {motion} over a {background} background",
    "a {colour} {shape} {motion} on a {background} background",
    "A {colour} {shape} {motion} on {background}.",
    "the {colour} {shape} {motion}, {background} background",
    "{background} background, a {colour} {shape} {motion}",
    "On a {background} background, a {colour} {shape} {motion}.",
    "a video of a {colour} {shape}, it {motion}, the background is {background}",
    "{colour} {shape} {motion}, {background} background",
    "one {colour} {shape} in front of a {background} background, the {shape} {motion}",
    "a {shape} {motion}. The {shape} is {colour} and the background is {background}.",
)


def caption(combination: tuple[str, str, str, str], rng: random.Random) -> str:
    """Words (shape, colour, background, motion) in one of many ways."""
    shape, colour, background, motion = combination
    phrase = rng.choice(PHRASES[motion]).format(motion=motion)
    text = rng.choice(TEMPLATES)
    return text.format(colour=colour, shape=shape, background=background, motion=phrase)


def corpus() -> list[str]:
    """Every wording at least once, to train the tokenizer on."""
    rng = random.Random(0)
    combinations = list(product(SHAPES, OBJECT_COLOURS, BACKGROUND_COLOURS, MOTIONS))
    return [caption(combination, rng) for combination in combinations for _ in range(4)]
