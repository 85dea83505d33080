"""What README.md shows of the engine runs as it stands there."""

import re
import runpy
import shlex
from pathlib import Path

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
