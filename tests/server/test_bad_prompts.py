"""Hostile prompts against a real server: every one is answered, every refusal of a node is meant, and the server lives on."""

import copy
import random
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from demo_prompts import demo_prompt

from tools.comfy_client import PromptFailed, PromptRefused
from tools.comfy_server import ComfyServer

Prompt = dict[str, Any]
MUTATIONS = 100
HOSTILE_VALUES = [
    None, "", " ", -1, 0, 0.5, 1e308, 10**30, -(2**63), "NaN", float("nan"), float("inf"), True, False, [], {}, "x" * 5000,
    "../../etc/passwd", "\x00", "三条腿", ["1"], ["1", 0], ["1", 99], ["1", -1], ["1", "0"], ["99", 0], [["1", 0], 0], {"a": [1]},
]  # fmt: skip
KINDS = [None, "", "KSampler", "NoSuchNode", "FastVideoGuider", "FastVideoRunReport", "EmptyHunyuanLatentVideo", 7]
MEANT = "fastvideo_core.errors."


def test_mutated_prompts_are_all_answered_and_the_server_lives(comfy_server: ComfyServer) -> None:
    rng = random.Random(0)
    good = demo_prompt("demo_t2v", steps=2, width=32, height=32, length=5)
    outcomes = [_outcome(comfy_server, _mutated(good, rng)) for _ in range(MUTATIONS)]
    assert {"refused", "failed", "ran"} == {kind for kind, _ in outcomes}
    ours = {reason for kind, reason in outcomes if kind == "failed" and reason.startswith("FastVideo")}
    assert not [reason for reason in ours if MEANT not in reason], "a node broke instead of saying what is wrong"
    comfy_server.wait(comfy_server.post(demo_prompt("demo_t2v", steps=1, width=32, height=32, length=5, seed=99)))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"text"', b"{}", b'{"prompt": null}', b'{"prompt": []}', b'{"prompt": {"1": null}}',
             b'{"prompt": {"1": {"inputs": {}}}}', b"\xff\xfe", b'{"prompt": ' * 2000],
)  # fmt: skip
def test_malformed_request_is_answered_with_an_error(comfy_server: ComfyServer, body: bytes) -> None:
    request = urllib.request.Request(f"{comfy_server.url}/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request, timeout=30)
    assert answer.value.code in (400, 500)
    assert comfy_server.request("/system_stats")


def _outcome(server: ComfyServer, prompt: Prompt) -> tuple[str, str]:
    """("refused" | "failed" | "ran", why)."""
    try:
        server.wait(server.post(prompt), timeout=60)
    except PromptRefused as refused:
        return "refused", str(refused)
    except PromptFailed as failed:
        return "failed", str(failed)
    return "ran", ""


def _mutated(good: Prompt, rng: random.Random) -> Prompt:
    prompt = copy.deepcopy(good)
    for _ in range(rng.choice([1, 1, 2])):
        rng.choice(OPERATORS)(prompt, rng)
    return prompt


def _set_input(prompt: Prompt, rng: random.Random) -> None:
    inputs = _inputs(prompt, rng)
    if inputs:
        inputs[rng.choice(sorted(inputs))] = rng.choice(HOSTILE_VALUES)


def _drop_input(prompt: Prompt, rng: random.Random) -> None:
    inputs = _inputs(prompt, rng)
    if inputs:
        del inputs[rng.choice(sorted(inputs))]


def _rewire(prompt: Prompt, rng: random.Random) -> None:
    inputs = _inputs(prompt, rng)
    if inputs:
        inputs[rng.choice(sorted(inputs))] = [rng.choice(sorted(prompt)), rng.randrange(4)]


def _drop_node(prompt: Prompt, rng: random.Random) -> None:
    del prompt[rng.choice(sorted(prompt))]


def _change_kind(prompt: Prompt, rng: random.Random) -> None:
    node = prompt[rng.choice(sorted(prompt))]
    if isinstance(node, dict):
        node["class_type"] = rng.choice(KINDS)


def _add_input(prompt: Prompt, rng: random.Random) -> None:
    # No links: one from an output that does not exist into an input that does not exist ends ComfyUI 0.30's worker thread too.
    values = [value for value in HOSTILE_VALUES if not isinstance(value, list)]
    _inputs(prompt, rng)[rng.choice(["", "unknown", "low_noise_model", "sigmas"])] = rng.choice(values)


def _break_node(prompt: Prompt, rng: random.Random) -> None:
    # Not a node without "inputs" beside a good output: on that one ComfyUI 0.30's own worker thread ends.
    prompt[rng.choice(sorted(prompt))] = rng.choice([None, [], "node", {}, {"class_type": "FastVideoSampler", "inputs": {}}])


OPERATORS: list[Callable[[Prompt, random.Random], None]] = [
    _set_input, _set_input, _set_input, _set_input, _rewire, _rewire, _drop_input, _add_input, _drop_node, _change_kind,
    _break_node,
]  # fmt: skip


def _inputs(prompt: Prompt, rng: random.Random) -> dict[str, Any]:
    node = prompt[rng.choice(sorted(prompt))]
    return node.get("inputs", {}) if isinstance(node, dict) else {}
