"""The line on a node while it works."""

import re
from typing import Any

import pytest
from caching import module_of
from graphs import guider_prompt, node, phases_prompt, sampler_prompt, with_inputs
from sampling import run_node
from test_queue_prompt import TinyPrompts, queue_prompt


def texts(host: Any, prompt: dict[str, Any], of: str) -> list[str]:
    """What node `of` showed, in order, as if no step took time."""
    sent = [data for kind, data in host.run(prompt, {"latent": (of, 0)}).events if kind == "3"]
    head = len(of).to_bytes(4, "big") + of.encode()
    shown = [data.removeprefix(head).decode() for data in sent if data.startswith(head)]
    return [re.sub(r"\d+:\d\d", "0:00", text) for text in shown]


@pytest.fixture(name="host")
def _host(prompts: Any) -> Any:
    import nodes

    nodes.NODE_CLASS_MAPPINGS["TinyPrompts"] = TinyPrompts
    prompts.reset()
    return prompts


LEFT = ["step 1 of 4, 0:00 left", "step 2 of 4, 0:00 left", "step 3 of 4, 0:00 left"]
SAMPLERS = {
    "sampler": (sampler_prompt(), "5"), "phase sampler": (phases_prompt(), "5"), "guider": (guider_prompt(), "9"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLERS)
def test_each_step_is_told_on_the_node_that_samples(host: Any, kind: str) -> None:
    assert texts(host, *SAMPLERS[kind]) == [*LEFT, "4 steps in 0:00"]


def test_what_a_cache_skips_is_told(host: Any) -> None:
    custom = {"threshold": 0.99, "warmup_steps": 1, "first_blocks": 1, "last_blocks": 0, "max_skips": 1, "max_skipped_steps": 0,
              "taylor_order": 0}  # fmt: skip
    given = {f"preset.{name}": value for name, value in custom.items()}
    cache = node("FastVideoDBCache", model=["1", 0], preset="custom", **given, residuals_on_cpu=False, enabled=True)
    prompt = with_inputs({**sampler_prompt(), "9": cache}, "5", model=["9", 0])
    assert texts(host, prompt, "5")[1:] == [f"{LEFT[1]}, 1 skipped", f"{LEFT[2]}, 1 skipped", "4 steps in 0:00, 2 skipped"]


def test_a_queue_tells_which_video(host: Any) -> None:
    shown = texts(host, queue_prompt(), "5")
    videos = [text.partition(", ")[0] for text in shown]
    assert videos == [*["video 1 of 2"] * 2, *["video 2 of 2"] * 2] * 2
    assert [text.partition(", ")[2] for text in shown[4:6]] == ["step 3 of 4, 0:00 left", "2 steps in 0:00"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((1, 40, [9.0], 0), "step 1 of 40, 5:51 left"),
        ((12, 40, [60.0, *[5.0] * 5, *[8.0] * 6], 8), "step 12 of 40, 3:06 left, 8 skipped"),
        ((22, 40, [9.0, 300.0], 0), "step 22 of 40, 1:30:00 left"),
        ((40, 40, [1.0] * 10, 0), "10 steps in 0:10"),
        ((1, 1, [3599.6], 0), "1 step in 1:00:00"),
    ],
)
def test_what_is_left_goes_by_the_steps_after_the_first(comfy: Any, told: tuple[Any, ...], expected: str) -> None:
    assert module_of(comfy, "native.progress").step_text(*told) == expected


@pytest.mark.usefixtures("direct")
def test_outside_of_a_prompt_nothing_is_told(comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from server import PromptServer

    monkeypatch.delattr(PromptServer, "send_progress_text")
    _, report = run_node(comfy, load_wan(), steps=1)
    assert "1 step euler" in report.text() and "single expert: 1 step from sigma" in report.text()
    monkeypatch.delattr(PromptServer, "instance")
    run_node(comfy, load_wan(), steps=1)
