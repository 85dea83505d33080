"""FastVideo Queue Sampler in a whole prompt: ComfyUI hands it lists, and each of its videos and reports on."""

from typing import Any

import pytest
import torch
from graphs import node, phases_prompt
from sampling import conditions_of

SEEDS = [3, 8]


class TinyPrompts:
    """Two prompts and two seeds, as lists."""

    RETURN_TYPES = ("CONDITIONING", "INT")
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"broken": ("BOOLEAN", {})}}

    def make(self, broken: bool) -> tuple[list[Any], list[int]]:
        first, _ = conditions_of("t2v")
        return [first, [[text * (torch.nan if broken else 2), told] for text, told in first]], SEEDS


@pytest.fixture(name="host")
def _host(prompts: Any) -> Any:
    import nodes

    nodes.NODE_CLASS_MAPPINGS["TinyPrompts"] = TinyPrompts
    prompts.reset()
    return prompts


def queue_prompt(broken: bool = False, **changes: Any) -> dict[str, Any]:
    """API prompt: three phases, FastVideo Queue Sampler as node "5", FastVideo Run Report as node "6"."""
    prompt = phases_prompt()
    inputs = {name: value for name, value in prompt["5"]["inputs"].items() if name not in ("stop_after_phase", "resume_state")}
    lists = {"positive": ["10", 0], "seed": ["10", 1]}
    return {
        **prompt,
        "10": node("TinyPrompts", broken=broken),
        "5": node("FastVideoQueueSampler", **{**inputs, **lists, **changes}),
        "6": node("FastVideoRunReport", report=["5", 1]),
    }


def test_lists_come_in_and_go_out(host: Any) -> None:
    run = host.run(queue_prompt(), {"last": ("5", 0), "told": ("5", 2)})
    reports = run.outputs["6"]["text"]
    assert len(reports) == 2 and [f"seed {seed}" in report for seed, report in zip(SEEDS, reports, strict=True)] == [True, True]
    assert [line[:3] for line in run.captured["told"].splitlines()] == ["2 v", "1: ", "2: "]
    single = phases_prompt(seed=SEEDS[1])
    single["10"], single["5"]["inputs"]["positive"] = node("TinyPrompts", broken=False), ["10", 0]
    alone = host.run(single, {"last": ("5", 0)})
    assert torch.equal(run.captured["last"]["samples"], alone.captured["last"]["samples"]), "each of the second prompt and seed"


def test_one_that_fails_leaves_the_others(host: Any) -> None:
    run = host.run(queue_prompt(broken=True), {"told": ("5", 2)})
    assert len(run.outputs["6"]["text"]) == 1 and "2: failed: " in run.captured["told"]

