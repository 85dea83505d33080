"""Interrupts at random moments: the next run of each workflow is what it was, bit by bit, and no memory is kept."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.comfy_client import PromptFailed
from tools.comfy_server import ComfyServer

from .case import Case, Place
from .mutations import Prompt
from .servers import equal, held, made, template_server
from .shipped import NAMES, shipped

COUNT = 200
PATIENCE = 120.0
"""Seconds until a prompt that was interrupted must have ended."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """Of all shipped prompts, each one's in a row."""
    with template_server(place.tree, place.base) as server:
        yield from on(server, {name: shipped(name) for name in NAMES}, place, numbers)


def on(server: ComfyServer, good: Mapping[str, Prompt], place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    names = list(good)
    for index, name in enumerate(names):
        own = [number for number in numbers if number % len(names) == index]
        if own:
            yield from _of_one(server, name, good[name], place, own)


def _of_one(server: ComfyServer, name: str, prompt: Prompt, place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """The last case tells of the run after it."""
    made(server, seeded(prompt, 1))  # loads the models
    started = time.monotonic()
    before = made(server, prompt)
    seconds, memory = time.monotonic() - started, held(server).memory
    for number in numbers:
        chance = place.chance("interrupts", number)
        moment = chance.uniform(0, seconds)
        answer, fault = _interrupted(server, seeded(prompt, chance.randrange(2, 2**32)), moment)
        figures = {"after": moment, "of": seconds}
        if number == numbers[-1]:
            fault = fault or ("" if equal(made(server, prompt), before) else "the next run gives another video")
            figures["kept"] = held(server).memory - memory
        yield Case(number=number, what=name, answer=answer, fault=fault, figures=figures)


def seeded(prompt: Prompt, seed: int) -> Prompt:
    """With another seed, so that its sampling is made anew."""
    return {name: {**entry, "inputs": _seeded(entry["inputs"], seed)} for name, entry in prompt.items()}


def _seeded(inputs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    given = {key: type(inputs[key])(seed) for key in ("seed", "noise_seed", "seeds") if isinstance(inputs.get(key), int | str)}
    return {**inputs, **given}


def _interrupted(server: ComfyServer, prompt: Prompt, moment: float) -> tuple[str, str]:
    """How it ended, and what is wrong with that."""
    identity = server.post(prompt)
    time.sleep(moment)
    server.interrupt(identity)
    try:
        last = server.wait(identity, PATIENCE)[-1]
    except PromptFailed as failed:
        return "failed", str(failed)
    return ("interrupted", "") if last.type == "execution_interrupted" else ("ran to its end before", "")
