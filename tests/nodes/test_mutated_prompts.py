"""Three hundred damaged prompts: each is refused or fails with words, and the next good prompt runs as before."""

import copy
import json
import random
from typing import Any

import pytest
import torch
from graphs import guider_prompt, node, phases_prompt, sampler_prompt

from tools.comfy_in_process import PromptFailed, PromptRefused

Prompt = dict[str, Any]
MUTATIONS = 300


GOOD: dict[str, tuple[Prompt, str]] = {
    "sampler": (sampler_prompt(low_noise=True), "5"),
    "guider": (guider_prompt(low_noise=True), "9"),
    "phases": (phases_prompt(save_state="mutated"), "5"),
}


@pytest.mark.parametrize("path", GOOD)
def test_mutated_prompts_are_refused_or_fail_with_words(tiny: Any, path: str) -> None:
    """A third of them on each path. Afterwards the good prompt gives what it gave before."""
    good, sampling = GOOD[path]
    good = {**good, "capture": node("CaptureOutput", name="latent", value=[sampling, 0])}
    tiny.reset()
    before = tiny.run(good).captured["latent"]["samples"]
    rng = random.Random(f"mutations of {path}")
    outcomes = [outcome(tiny, mutated(good, rng)) for _ in range(MUTATIONS // len(GOOD))]
    kinds = [kind for kind, _ in outcomes]
    assert min(kinds.count(kind) for kind in ("refused", "failed", "ran")) > 3
    assert all(words.strip() for kind, words in outcomes if kind != "ran")
    broken = [words for kind, words in outcomes if kind == "failed" and words.startswith("FastVideo")]
    assert [words for words in broken if ": fastvideo_core.errors." not in words] == []
    tiny.reset()
    assert torch.equal(tiny.run(good).captured["latent"]["samples"], before)


def outcome(host: Any, prompt: Prompt) -> tuple[str, str]:
    try:
        host.run(prompt)
    except PromptRefused as refused:
        return "refused", str(refused)
    except PromptFailed as failed:
        return "failed", str(failed)
    return "ran", ""


VALUES: list[Any] = [
    None, "", "x" * 300, "../../etc/passwd", -1, 0, 1, 2.5, 1e308, -1e308, 10**30, float("nan"), float("inf"), True, [], {},
    ["1"], ["1", 7], ["nowhere", 0], [1, 2, 3], "auto", "batched", "dmd", "t2v", "i2v", "i2v_clip", 0.5, 0.02, 0.95, 7, 40,
    48, 64, 72,
]  # fmt: skip


def mutated(good: Prompt, rng: random.Random) -> Prompt:
    """A copy with one or two changes."""
    prompt = copy.deepcopy(good)
    for _ in range(rng.randint(1, 2)):
        rng.choice([*[_other_value] * 6, _no_input, _other_link, _other_class, _no_node])(prompt, rng)
    return json.loads(json.dumps(prompt))  # as it would arrive


def _other_value(prompt: Prompt, rng: random.Random) -> None:
    name = rng.choice(sorted(prompt))
    inputs = prompt[name]["inputs"]
    inputs[rng.choice(sorted(inputs) or ["new"])] = rng.choice(VALUES)


def _no_input(prompt: Prompt, rng: random.Random) -> None:
    inputs = prompt[rng.choice(sorted(prompt))]["inputs"]
    inputs.pop(rng.choice(sorted(inputs) or ["none"]), None)


def _other_link(prompt: Prompt, rng: random.Random) -> None:
    links = [(name, key) for name in sorted(prompt) for key, value in prompt[name]["inputs"].items() if isinstance(value, list)]
    if links:
        name, key = rng.choice(links)
        prompt[name]["inputs"][key] = [rng.choice(sorted(prompt)), rng.choice([0, 0, 0, 1])]


def _other_class(prompt: Prompt, rng: random.Random) -> None:
    classes = ["NoSuchNode", "", "KSampler", "FastVideoRunReport", "FastVideoGuider", "UNETLoader", "EmptyLatentImage"]
    prompt[rng.choice(sorted(prompt))]["class_type"] = rng.choice(classes)


def _no_node(prompt: Prompt, rng: random.Random) -> None:
    if len(prompt) > 1:
        del prompt[rng.choice(sorted(prompt))]
