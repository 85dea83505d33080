"""`make demo` as a person uses it: videos where it says, and never a server left behind."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def video_prompt(images: int, size: int = 16) -> dict[str, Any]:
    video = {"images": ["1", 0], "fps": 16.0}
    saved = {"video": ["2", 0], "filename_prefix": "clip", "format": "auto", "codec": "auto"}
    image = {"width": size, "height": size, "batch_size": images, "color": 255}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "CreateVideo", "inputs": video},
        "3": {"class_type": "SaveVideo", "inputs": saved},
    }


@pytest.fixture
def start(comfyui_tree: Path, tmp_path: Path) -> Any:
    """Start the demo with one prompt; its output ends up in `tmp_path / "videos"`."""

    def start(prompt: dict[str, Any]) -> subprocess.Popen[str]:
        (tmp_path / "prompt.json").write_text(json.dumps(prompt))
        command = [sys.executable, "-m", "tools.demo", str(tmp_path / "prompt.json"), "--output", str(tmp_path / "videos")]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def servers(output: str) -> list[psutil.Process]:
    """Those that the demo said it starts, also where they do not answer yet."""
    found = re.search(r"at http://127\.0\.0\.1:(\d+)", output)
    assert found, output
    return [process for process in psutil.process_iter() if found[1] in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_demo_shows_its_steps_saves_the_video_and_stops_the_server(start: Any, tmp_path: Path) -> None:
    demo = start(video_prompt(images=4))
    output, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, output
    (video,) = (tmp_path / "videos").glob("*.mp4")
    sheet = tmp_path / "videos" / "contact_sheet.png"
    assert re.search(rf"  {video}  \(\d+\.\d s\)\nTheir frames: {sheet}\nAll in \d+\.\d s\.\n$", output)
    with Image.open(sheet) as image:
        assert image.size == (9 * 132 - 4, 128)
        assert image.convert("RGB").getpixel((9 * 132 - 5, 64)) == pytest.approx((0, 0, 255), abs=4)  # EmptyImage's colour 255
    assert "Save Video" in output
    assert servers(output) == []


def test_demo_that_fails_shows_the_error_and_the_log_and_stops_the_server(start: Any) -> None:
    prompt = video_prompt(images=4)
    prompt["3"]["inputs"]["filename_prefix"] = "../../outside"
    demo = start(prompt)
    output, _ = demo.communicate(timeout=300)
    assert demo.returncode == 1
    assert "SaveVideo: Exception: " in output
    assert "End of ComfyUI's log:" in output
    assert servers(output) == []


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "ComfyUI answers"), (signal.SIGTERM, 143, "Starting ComfyUI")]
)
def test_demo_that_is_stopped_stops_the_server(start: Any, number: signal.Signals, status: int, said: str) -> None:
    """While it makes a video, and while the server starts."""
    demo = start(video_prompt(images=200, size=512))
    output = ""
    while said not in output:
        output += demo.stdout.readline()
    while not servers(output):
        time.sleep(0.05)
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == status, output + rest
    assert servers(output) == []
