"""What the run report notes of set-ups that run and are seldom meant, and how long a prompt took that had to wait."""

import sys
import time
from typing import Any

import pytest
from graphs import node, sampler_prompt, with_inputs
from sampling import run_node

from tools.comfy_in_process import PromptRefused

HIGH_NOISE = {
    "in_channels": 36, "latent_channels": 16, "dim": 5120, "layers": 40, "text_dim": 4096, "image_tokens": 0, "plain": True,
}  # fmt: skip


def own_module(host: Any, name: str) -> Any:
    return sys.modules[host.node_classes["FastVideoSampler"].__module__.rpartition(".")[0] + f".{name}"]


def test_one_model_as_both_experts_is_noted(direct: Any, load_wan: Any) -> None:
    model = load_wan()
    _, report = run_node(direct, model, "t2v", model)
    assert [note for note in report.notes if "the same model is both experts" in note]
    _, report = run_node(direct, model, "t2v", load_wan("t2v", 1))
    assert not [note for note in report.notes if "both experts" in note]


@pytest.mark.parametrize(("whole", "count"), [(True, 1), (False, 0)])
def test_one_expert_of_two_alone_is_noted(direct: Any, load_wan: Any, whole: bool, count: int) -> None:
    """By its size, where no single model has it: Wan 2.2 I2V A14B's. Not where it is one of several chained samplers."""
    module = own_module(direct, "native.facts")
    facts = module.WanFacts(name="WAN21", **HIGH_NOISE)
    notes = module.expert_notes([load_wan()], facts, whole)
    assert len(notes) == count and all("I2V" in note and "connect the other one to low_noise_model" in note for note in notes)
    t2v = module.WanFacts(name="WAN21", **{**HIGH_NOISE, "in_channels": 16})
    assert module.expert_notes([load_wan()], t2v, whole) == ()  # Wan 2.1 T2V 14B has that size too


@pytest.mark.parametrize(("prompt", "noted"), [("a (red:1.5) circle", True), ("a circle (red) at 10:30", False)])
def test_weights_of_words_are_noted(direct: Any, load_wan: Any, prompt: str, noted: bool) -> None:
    clip = direct.node_classes["FastVideoLoadDemoWan"].execute("t2v").args[2]
    positive, _ = direct.node_classes["FastVideoTextEncode"].execute(clip, prompt, "").args
    notes = own_module(direct, "native.facts").told_notes({"positive": positive})
    expected = ("the positive prompt has '(red:1.5)': Wan reads it as plain words, weights have no effect",)
    assert notes == (expected if noted else ())


def test_waiting_for_other_prompts_is_not_a_prompts_own_time(direct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued a minute ago, while another one ran that ended ten seconds ago."""
    from types import SimpleNamespace

    from execution import PromptQueue

    module, now = own_module(direct, "native.prompt"), 1000 * time.time()
    queue = PromptQueue(SimpleNamespace(queue_updated=lambda: None))
    monkeypatch.setattr(module.PromptServer, "instance", SimpleNamespace(prompt_queue=queue), raising=False)
    monkeypatch.setattr(module, "get_executing_context", lambda: SimpleNamespace(prompt_id="mine"))
    queue.put((0, "mine", {}, {"create_time": now - 60_000}, []))
    queue.get()
    assert 59 < module.seconds_since_queued() < 70
    done = {"prompt": (), "outputs": {}, "status": {"messages": [("execution_success", {"timestamp": now - 10_000})]}}
    queue.history["other"] = done
    assert 9 < module.seconds_since_queued() < 20


@pytest.mark.parametrize(
    ("asked", "words"),
    [("flash_attn_3", "self_attention: flash_attn_3 cannot run on this machine: it needs"), ("magic", "'magic' is none of auto")],
)
def test_a_backend_that_cannot_run_here_is_refused_before_anything_runs(tiny: Any, asked: str, words: str) -> None:
    """A comparison makes its dense video first."""
    prompt = with_inputs(sampler_prompt(), "5", model=["a", 0])
    attention = node("FastVideoAttention", model=["1", 0], self_attention=asked, cross_attention="auto")
    with pytest.raises(PromptRefused, match=words):
        tiny.run({**prompt, "a": attention})
    tiny.run({**prompt, "a": with_inputs({"a": attention}, "a", self_attention="sdpa")["a"]})
