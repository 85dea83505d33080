"""Damaged prompts on tiny networks: each is refused or fails with words, and the next good prompt runs as before."""

import json
import random
from typing import Any

import pytest
import torch
from graphs import guider_prompt, node, phases_prompt, sampler_prompt

from tools.comfy_in_process import PromptFailed, PromptRefused
from tools.reliability.answers import Answer
from tools.reliability.mutations import mutated

Prompt = dict[str, Any]
MUTATIONS = 60
"""Of each prompt."""


GOOD: dict[str, tuple[Prompt, str]] = {
    "sampler": (sampler_prompt(low_noise=True), "5"),
    "guider": (guider_prompt(low_noise=True), "9"),
    "phases": (phases_prompt(save_state="mutated"), "5"),
}


@pytest.mark.parametrize("path", GOOD)
def test_mutated_prompts_are_refused_or_fail_with_words(tiny: Any, path: str) -> None:
    """Afterwards the good prompt gives what it gave before."""
    good, sampling = GOOD[path]
    good = {**good, "capture": node("CaptureOutput", name="latent", value=[sampling, 0])}
    tiny.reset()
    before = tiny.run(good).captured["latent"]["samples"]
    chance = random.Random(f"mutations of {path}")
    prompts = [json.loads(json.dumps(mutated(good, chance)[0])) for _ in range(MUTATIONS)]  # as they would arrive
    answers = [answer(tiny, prompt) for prompt in prompts if are_nodes(prompt)]
    assert {given.kind for given in answers} >= {"refused", "ran"}
    assert [given.words for given in answers if given.broken] == []
    tiny.reset()
    assert torch.equal(tiny.run(good).captured["latent"]["samples"], before)


def are_nodes(prompt: Prompt) -> bool:
    """What is none, the server refuses around core's validation."""
    return all(isinstance(entry, dict) for entry in prompt.values())


def answer(host: Any, prompt: Prompt) -> Answer:
    try:
        host.run(prompt)
    except PromptRefused as refused:
        return Answer("refused", str(refused))
    except PromptFailed as failed:
        return Answer("failed", str(failed))
    return Answer("ran")
