"""The pack in a real headless server: start, prompts, events, errors."""

import re
from pathlib import Path

import pytest

from tools.comfy_client import PromptRefused, ServerError
from tools.comfy_server import ComfyServer

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 4, "color": 255}}
VIDEO = {
    "1": IMAGE,
    "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 16.0}},
    "3": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["2", 0], "filename_prefix": "test/clip", "format": "auto", "codec": "auto"},
    },
}


def test_pack_is_loaded_under_its_folder_name(comfy_server: ComfyServer) -> None:
    assert re.search(r"seconds: \S+fastvideo-nodes\n", comfy_server.log.read_text())


def test_video_prompt_reports_events_history_and_a_file(comfy_server: ComfyServer) -> None:
    prompt = comfy_server.post(VIDEO)
    events = comfy_server.wait(prompt)
    assert [event.data["node"] for event in events if event.type == "executing"] == ["1", "2", "3"]
    assert events[-1].type == "execution_success"
    assert comfy_server.history(prompt)["status"]["status_str"] == "success"
    (file,) = comfy_server.files(prompt)
    assert file.parent == comfy_server.output / "test"
    assert file.read_bytes()[4:8] == b"ftyp"


def test_refused_prompt_names_node_and_reason_and_the_server_lives(comfy_server: ComfyServer) -> None:
    wrong = {**VIDEO, "1": {**IMAGE, "inputs": {**IMAGE["inputs"], "width": 0}}}
    with pytest.raises(PromptRefused, match=r"node 1 \(EmptyImage\): Value 0 smaller than min of 1: width") as refused:
        comfy_server.post(wrong)
    assert refused.value.status == 400
    comfy_server.wait(comfy_server.post(VIDEO))


def test_server_that_cannot_start_says_why(comfyui_tree: Path, tmp_path: Path) -> None:
    server = ComfyServer(comfyui_tree, tmp_path, arguments=["--no-such-argument"])
    with pytest.raises(ServerError, match=r"(?s)ended while it started.*unrecognized arguments: --no-such-argument"), server:
        pass
