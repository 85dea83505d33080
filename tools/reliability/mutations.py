"""Prompts with one or two things wrong, as a program that writes them, another version, or an attacker may."""

import copy
import random
from collections.abc import Callable
from typing import Any

Prompt = dict[str, Any]

VALUES: list[Any] = [
    None, "", " ", "x" * 5000, "三条腿", "\x00", "../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "NaN", float("nan"),
    float("inf"), -float("inf"), True, False, -1, 0, 1, 0.5, 2.5, 7, 40, 48, 72, 1e308, -1e308, 10**30, -(2**63), [], {},
    {"a": [1]}, [1, 2, 3], "auto", "batched", "dmd", "unipc", "t2v", "i2v", "two experts", "custom", "difference", "nearest", "7",
]  # fmt: skip
LINKS: list[Any] = [["1"], ["1", 7], ["1", -1], ["1", "0"], ["nowhere", 0], [["1", 0], 0]]
KINDS = [
    None, "", 7, "NoSuchNode", "KSampler", "UNETLoader", "EmptyLatentImage", "FastVideoRunReport", "FastVideoGuider",
    "FastVideoMagCache", "FastVideoSampler",
]  # fmt: skip
UNKNOWN = ["", "unknown", "low_noise_model", "sigmas", "variant.x"]


def mutated(good: Prompt, chance: random.Random) -> tuple[Prompt, list[str]]:
    """A copy with one or two changes, and what was done."""
    prompt = copy.deepcopy(good)
    names = chance.choices(list(OPERATORS), [weight for weight, _ in OPERATORS.values()], k=chance.choice([1, 1, 2]))
    return prompt, [f"{name}: {OPERATORS[name][1](prompt, chance)}" for name in names]


def _value(prompt: Prompt, chance: random.Random) -> str:
    return _set(prompt, chance, chance.choice(VALUES))


def _same_kind(prompt: Prompt, chance: random.Random) -> str:
    """What validation lets pass more often."""
    (name, key), inputs = _somewhere(prompt, chance, links=False)
    values = [value for value in VALUES if _kind(value) == _kind(inputs.get(key))]
    return _put(name, inputs, key, chance.choice(values or VALUES))


def _broken_link(prompt: Prompt, chance: random.Random) -> str:
    return _set(prompt, chance, copy.deepcopy(chance.choice(LINKS)))


def _other_link(prompt: Prompt, chance: random.Random) -> str:
    """To another node: an output of another kind, or of a model that is wrong here; sometimes a cycle."""
    (name, key), inputs = _somewhere(prompt, chance, links=True)
    others = [link for _, entry in _entries(prompt) for link in _given(entry).values() if _kind(link) == "link"]
    return _put(name, inputs, key, chance.choice([[chance.choice(sorted(prompt)), chance.randrange(4)], *others]))


def _cycle(prompt: Prompt, chance: random.Random) -> str:
    """A node's input comes from the node itself, or from one behind it."""
    (name, key), inputs = _somewhere(prompt, chance, links=True)
    behind = [
        other for other, entry in _entries(prompt)
        if any(isinstance(link, list) and link[:1] == [name] for link in _given(entry).values())
    ]  # fmt: skip
    return _put(name, inputs, key, [chance.choice([name, *behind]), 0])


def _set(prompt: Prompt, chance: random.Random, value: Any) -> str:
    (name, key), inputs = _somewhere(prompt, chance)
    return _put(name, inputs, key, value)


def _no_input(prompt: Prompt, chance: random.Random) -> str:
    (name, key), inputs = _somewhere(prompt, chance)
    inputs.pop(key, None)
    return f"{name}.{key}"


def _no_entry(prompt: Prompt, chance: random.Random) -> str:
    """One of the inputs of a dynamic combo's entry is missing, or its entry is another one."""
    found = [(name, key) for name, entry in _entries(prompt) for key in _given(entry) if "." in key]
    if not found:
        return _no_input(prompt, chance)
    name, key = chance.choice(found)
    inputs = prompt[name]["inputs"]
    if chance.random() < 0.5:
        del inputs[key]
        return f"{name}.{key}"
    return _put(name, inputs, key.split(".")[0], chance.choice(["custom", "auto", "STA", "nothing", None, 3]))


def _unknown_input(prompt: Prompt, chance: random.Random) -> str:
    # No links: one from an output that does not exist into an input that does not exist ends ComfyUI 0.30's worker thread.
    (name, _), inputs = _somewhere(prompt, chance)
    values = [value for value in VALUES if not isinstance(value, list)]
    return _put(name, inputs, chance.choice(UNKNOWN), chance.choice(values))


def _other_class(prompt: Prompt, chance: random.Random) -> str:
    name = chance.choice(sorted(prompt))
    if isinstance(prompt[name], dict):
        prompt[name]["class_type"] = chance.choice(KINDS)
    return f"{name} = {prompt[name]!r:.40}"


def _no_node(prompt: Prompt, chance: random.Random) -> str:
    name = chance.choice(sorted(prompt))
    if len(prompt) > 1:
        del prompt[name]
    return name


def _broken_node(prompt: Prompt, chance: random.Random) -> str:
    # Not a node without "inputs" beside a good output: on that one ComfyUI 0.30's own worker thread ends.
    name = chance.choice(sorted(prompt))
    prompt[name] = chance.choice([None, [], "node", {}, {"class_type": "FastVideoSampler", "inputs": {}}])
    return f"{name} = {prompt[name]!r}"


OPERATORS: dict[str, tuple[int, Callable[[Prompt, random.Random], str]]] = {
    "value": (4, _value), "value of its kind": (6, _same_kind), "broken link": (1, _broken_link), "other link": (4, _other_link),
    "cycle": (1, _cycle), "input missing": (2, _no_input), "entry of a dynamic combo": (2, _no_entry),
    "unknown input": (1, _unknown_input), "other class": (1, _other_class), "node missing": (1, _no_node),
    "node broken": (1, _broken_node),
}  # fmt: skip
"""Each with how often it is done."""


def _somewhere(prompt: Prompt, chance: random.Random, links: bool | None = None) -> tuple[tuple[str, str], Prompt]:
    """A node's name, one of its inputs, and all of them; among links or values only, if asked and there are any."""
    found = [(name, key) for name, entry in _entries(prompt) for key in _given(entry)]
    fits = [(n, k) for n, k in found if links is None or (_kind(prompt[n]["inputs"][k]) == "link") == links]
    name, key = chance.choice(sorted(fits or found) or [("nowhere", "nothing")])
    return (name, key), _given(prompt.get(name))


def _put(name: str, inputs: Prompt, key: str, value: Any) -> str:
    inputs[key] = value
    return f"{name}.{key} = {value!r:.60}"


def _entries(prompt: Prompt) -> list[tuple[str, Prompt]]:
    return [(name, entry) for name, entry in sorted(prompt.items()) if isinstance(entry, dict)]


def _given(entry: Any) -> Prompt:
    inputs = entry.get("inputs") if isinstance(entry, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _kind(value: Any) -> str:
    if isinstance(value, list) and value:
        return "link"
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
