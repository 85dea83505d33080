"""What README.md shows of the engine runs as it stands there."""

import re
import runpy
import shlex
from pathlib import Path

import av
import pytest

from fastvideo_core.__main__ import main

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_step_cache_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "load_demo" in block)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    (cache,) = names["fast"].report.caches
    assert cache.blocks_ran < cache.blocks_asked
    out = capsys.readouterr().out
    assert "block calls saved" in out and "time saved" in out and "ssim=" in out


def test_the_commands_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(r"^python -m fastvideo_core (.*)$", README, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["compare", "calibrate", "tune"]
    for line in lines:
        shorter = ["--steps", "4", "--frames", "5", "--output", str(tmp_path / "output")]
        assert main([*shlex.split(line), *shorter]) == 0
    assert len(list(tmp_path.glob("output/*.mp4"))) == 8
    assert len(list(tmp_path.glob("output/*.json"))) == 3
    assert "4 steps measured" in capsys.readouterr().out


def test_the_first_example_saves_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, on the demo model and in few steps."""
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "WanModel.load(" in block)
    shorter = {
        r"WanModel\.load\(.*\)": "load_demo('two experts')", "WanModel": "load_demo", "width=832, height=480, frames=81":
        "width=64, height=64, frames=5", "steps=40": "steps=4",
    }  # fmt: skip
    for long, short in shorter.items():
        assert re.search(long, example)
        example = re.sub(long, short, example)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py")
    with av.open("fox.mp4") as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(64, 64)] * 5


def test_the_workflows_that_it_names_are_there() -> None:
    (named,) = re.findall(r"has workflows .*? and have none", README, re.DOTALL)
    files = {file.stem for file in (Path(__file__).resolve().parents[2] / "workflows").glob("wan*.json")}
    titles = {"wan2.1_t2v_1.3B", "wan2.1_i2v_14B", "wan2.2_t2v_A14B", "wan2.2_i2v_A14B", "wan2.2_ti2v_5B"}
    assert files == titles and "Wan 2.1 T2V 1.3B and I2V 14B, Wan 2.2 T2V A14B, I2V A14B and TI2V 5B" in named


def test_the_platforms_that_it_names_have_a_lock() -> None:
    locks = [file.name for file in (Path(__file__).resolve().parents[2] / "tools" / "locks").glob("pack-*.lock")]
    assert locks == ["pack-cp311-linux-x86_64.lock"] and "Python 3.11 on Linux (x86-64)" in README
