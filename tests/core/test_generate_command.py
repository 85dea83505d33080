"""Videos from the command line: of one prompt or many, and what is left where it was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy
import pytest
import torch
from PIL import Image

from fastvideo_core import GenerationState
from fastvideo_core.__main__ import main
from fastvideo_core.wan import linear

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = (
    "a red circle moving left over a teal background",
    "a blue square, still, over a gray background",
    "a green triangle moving up",
)
PAIR = ("--demo", "two experts", "--guidance-mode", "batched", "--frames", "9", "--steps", "12", "--seed", "5")


def frames_of(file: Path) -> numpy.ndarray[Any, Any]:
    with av.open(str(file)) as video:
        return numpy.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def by_prompt(folder: Path) -> dict[str, Path]:
    """The video of each report's prompt."""
    return {json.loads(file.read_text("utf-8"))["prompt"]: file.with_suffix(".mp4") for file in folder.glob("*.json")}


def written(folder: Path, prompts: tuple[str, ...] = PROMPTS) -> Path:
    file = folder / "prompts.txt"
    file.write_text("\n\n".join(prompts) + "\n", "utf-8")
    return file


TORCHS_LAYERS = """
import runpy
from fastvideo_core.wan import linear
linear.fastest = lambda *_: "torch"
runpy.run_module("fastvideo_core", run_name="__main__", alter_sys=True)
"""
"""The command, with the layers of `torchs_layers`."""


@pytest.fixture(scope="module", autouse=True)
def torchs_layers() -> Iterator[None]:
    """What is fastest is measured in each process, and another may take another way, which differs by rounding."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(linear, "fastest", lambda *_: "torch")
        yield


@pytest.fixture(scope="module")
def singles(torchs_layers: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The video of each prompt, made by a command of its own."""
    videos = {}
    for number, prompt in enumerate(PROMPTS):
        folder = tmp_path_factory.mktemp(f"single{number}")
        assert main(["generate", *PAIR, "--prompt", prompt, "--output", str(folder)]) == 0
        videos |= by_prompt(folder)
    return videos


def assert_as_single_runs(folder: Path, singles: dict[str, Path]) -> None:
    videos = by_prompt(folder)
    assert set(videos) == set(singles) == set(PROMPTS)
    for prompt, video in videos.items():
        made, alone = frames_of(video), frames_of(singles[prompt])
        assert made.shape == (9, 64, 64, 3) and made.std() > 10, "there is something to be seen"
        assert numpy.array_equal(made, alone) and singles[prompt].name == video.name


def test_each_prompt_of_a_file_gets_the_video_of_its_single_run(
    tmp_path: Path, singles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    command = ["generate", *PAIR, "--prompts", str(written(tmp_path)), "--output", str(tmp_path / "many")]
    assert main(command) == 0
    told = capsys.readouterr()
    videos = by_prompt(tmp_path / "many")
    assert [line.split(":")[0] for line in told.out.splitlines()] == [videos[prompt].stem for prompt in PROMPTS]
    assert "36/36" in told.err, "a bar over all steps"
    assert len(list((tmp_path / "many").iterdir())) == 6, "and nothing else is left"
    for file in (tmp_path / "many").glob("*.json"):
        data = json.loads(file.read_text("utf-8"))
        assert (data["size"]["frames"], data["request"]["seed"], len(data["report"]["step_seconds"])) == (9, 5, 12)
        assert "2 other generations ran beside it" in data["report"]["notes"][-1]
    assert_as_single_runs(tmp_path / "many", singles)
    assert main(command) == 0
    told = capsys.readouterr()
    assert told.out.count(": is there") == 3 and told.err == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_stopped_goes_on_and_gives_the_same_videos(
    how: signal.Signals, tmp_path: Path, singles: dict[str, Path]
) -> None:
    folder = tmp_path / "many"
    arguments = [*PAIR, "--prompts", str(written(tmp_path)), "--output", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", TORCHS_LAYERS, "generate", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as child:
        while len(list(folder.glob("*.safetensors"))) < 2 and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(how)
    assert child.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    states = [GenerationState.load(file) for file in folder.glob("*.safetensors")]
    made = sum(state.step for state in states)
    assert len(states) >= 2 and 0 < made < 3 * 12
    assert main(["generate", *arguments]) == 0
    assert not list(folder.glob("*.safetensors")) and not list(folder.glob("part_*"))
    reports = [json.loads(file.read_text("utf-8"))["report"] for file in folder.glob("*.json")]
    begun = [state.step for state in states]
    assert sorted(report["first_step"] for report in reports) == sorted([0] * (3 - len(begun)) + begun)
    assert_as_single_runs(folder, singles)


def test_objects_of_a_file_have_settings_of_their_own_and_one_that_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(numpy.full((64, 64, 3), (200, 30, 30), dtype=numpy.uint8)).save(tmp_path / "red.png")
    rows = [
        {"prompt": PROMPTS[0], "image": "red.png", "seed": 3, "steps": 4, "frames": 5, "image_motion": 1.15},
        {"prompt": PROMPTS[1], "image": "gone.png"},
        {"prompt": "red " * 600, "image": "red.png"},
        {"prompt": PROMPTS[2], "image": "red.png", "width": 48, "negative": "blur", "steps": 3, "shift": None},
        {"prompt": PROMPTS[2], "image": "red.png", "width": 50},
    ]
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(rows), "utf-8")
    assert main(["generate", "--demo", "i2v", "--frames", "9", "--prompts", str(file), "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    first, last = (by_prompt(tmp_path / "out")[prompt] for prompt in (PROMPTS[0], PROMPTS[2]))
    assert frames_of(first).shape == (5, 64, 64, 3) and frames_of(last).shape == (9, 64, 48, 3)
    told_of = [json.loads(video.with_suffix(".json").read_text("utf-8")) for video in (first, last)]
    assert told_of[0]["image_motion"] == 1.15 and "image_motion" not in told_of[1]
    request = told_of[0]["request"]
    assert (request["seed"], request["steps"], request["shift"]) == (3, 4, 5.0)
    for number, words in ((2, "gone.png"), (3, "512"), (5, "width is 50: it must be a multiple of 16")):
        (line,) = (line for line in told.out.splitlines() if words in line)
        assert "failed: " in line and (line.startswith(f"prompt {number}: ") or "red_red" in line)
    assert "3 of 5 failed: prompt 2, " in told.err and "Run it again for these." in told.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "\n \n", "holds no prompt: write one per line"),
        ("p.json", "[]", "holds no prompt"),
        ("p.json", "{", "is no JSON"),
        ("p.json", '{"prompt": "a"}', "is no list"),
        ("p.json", '[{"prompt": "a"}, {"seed": 1}]', "Object 2 of "),
        ("p.json", '[{"prompt": "a", "cfg": 1}]', "sets 'cfg', which there is not. It may set any of: prompt, negative, seed"),
        ("p.json", '[{"prompt": "a", "image": 1}]', "image is 1, and must be the path of a file"),
    ],
)
def test_a_file_that_holds_no_prompts_is_one_line(
    name: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    assert main(["generate", "--demo", "t2v", "--prompts", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m fastvideo_core generate: ") and words in line
    assert not (tmp_path / "out").exists()


def test_a_prompt_and_a_file_of_prompts_are_not_both_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--prompt", "a", "--prompts", "b.txt"]):
        with pytest.raises(SystemExit, match="2"):
            main(["generate", "--demo", "t2v", *arguments, "--output", str(tmp_path / "out")])
        assert "--prompt" in capsys.readouterr().err
    assert main(["generate", "--demo", "t2v", "--prompts", str(tmp_path / "none.txt"), "--output", str(tmp_path / "out")]) == 1
    assert "none.txt" in capsys.readouterr().err
