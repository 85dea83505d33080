"""FastVideo Batch on a real headless server: one of its videos is cancelled, the others become files."""

from typing import Any

import pytest

from tools.comfy_client import Event, PromptRefused
from tools.comfy_server import ComfyServer

PROMPTS = ("a red circle moving left", "a blue square over white", "a green triangle")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


PROMPT = {
    "1": node("FastVideoLoadDemoWan", model="t2v", lora_strength=0.0),
    "2": node("FastVideoPhase", model=["1", 0], until=0.0, guidance_scale=3.0),
    "3": node(
        "FastVideoBatch", phases=["2", 0], clip=["1", 2], vae=["1", 3], prompts="\n".join(PROMPTS), negative="", seeds="1",
        width=32, height=32, length=5, steps=3, shift=5.0, solver="euler", guidance_mode="auto", gate=1.0, guidance_rescale=0.0,
        filename_prefix="batch/one", fps=8.0,
    ),
}  # fmt: skip


def test_one_video_is_cancelled_before_it_begins_and_the_others_go_on(comfy_server: ComfyServer) -> None:
    cancelled: list[Any] = []
    lines, left = list[str](), list[list[int]]()

    def look(event: Event) -> None:
        if event.type == "progress_state" and event.data["nodes"].get("3", {}).get("value") and not cancelled:
            cancelled.append(comfy_server.request("/fastvideo/cancel", {"node": "3", "video": 3}))
        if event.type == "text":
            lines.append(event.data["text"])
        if event.type == "fastvideo.videos":
            assert event.data["node"] == "3"
            left.append(event.data["videos"])

    identity = comfy_server.post(PROMPT)
    comfy_server.wait(identity, on_event=look)
    told, *each = comfy_server.history(identity)["outputs"]["3"]["text"][0].splitlines()
    assert cancelled == [{}] and told == "2 videos; 1 failed"
    assert each[2].startswith("3: failed: It was cancelled before its end.") and PROMPTS[2] in each[2]
    assert [file.name for file in comfy_server.files(identity)] == ["one_00001_.mp4", "one_00002_.mp4"]
    assert any("2: step 1 of 3" in line for line in lines) and not any("3: step" in line for line in lines)
    assert left == [[1, 2, 3], [2, 3], [3], [], []], "what the page can cancel"


@pytest.mark.parametrize(
    ("given", "why"), [({"node": "3", "video": 2}, "Node '3' makes no video 2 now"), ({"video": 2}, "its id")],
)  # fmt: skip
def test_what_does_not_run_cannot_be_cancelled(comfy_server: ComfyServer, given: dict[str, Any], why: str) -> None:
    with pytest.raises(PromptRefused, match=why):
        comfy_server.request("/fastvideo/cancel", given)
