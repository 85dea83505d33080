"""What README.md shows of the engine runs as it stands there, and gives the figures that stand beside it."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import av
import pytest

from fastvideo_core import Measured, against, blocks_cut
from fastvideo_core.__main__ import main

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Without ComfyUI") : README.index("## More")]
STATED = {
    what.replace("`", ""): (int(cut), float(ssim))
    for what, cut, ssim in re.findall(r"^\| (\S.*?) \| (\d+) % \| (0\.\d+) \|$", SECTION, re.MULTILINE)
}
"""Percent of the block calls saved, and the mean SSIM."""


def check(what: str, cut: float, ssim: float) -> None:
    """Rounding differs from machine to machine, and seldom tips a decision of a cache."""
    assert (100 * cut, ssim) == (pytest.approx(STATED[what][0], abs=3), pytest.approx(STATED[what][1], abs=0.005))


def run(command: str) -> None:
    (line,) = re.findall(rf"^python -m fastvideo_core ({command} .*)$", README, re.MULTILINE)
    assert main(shlex.split(line)) == 0


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_example_of_a_step_cache_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "load_demo" in block)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    dense, fast = names["dense"], names["fast"]
    assert isinstance(dense, Measured) and isinstance(fast, Measured)
    check("example, MagCache", blocks_cut(fast.report), against(dense, fast).mean.ssim)
    out = capsys.readouterr().out
    assert "block calls saved" in out and "time saved" in out and "ssim=" in out


def test_compare_finds_what_stands_beside_it() -> None:
    run("compare")
    pairs = json.loads(Path("output/compare/comparison.json").read_text(encoding="utf-8"))["pairs"]
    assert len(list(Path("output/compare").glob("*.mp4"))) == 2 * (4 + 1)  # each alone, and side by side
    for case in ("magcache", "dbcache", "gate=0.5"):
        own = [pair for pair in pairs if pair["case"] == case]
        assert len(own) == 2
        ssim = sum(pair["quality"]["mean"]["ssim"] for pair in own) / len(own)
        check(f"compare, {case}", _cut(own), ssim)


def _cut(pairs: list[dict[str, Any]]) -> float:
    caches = [cache for pair in pairs for cache in pair["accelerated"]["report"]["caches"]]
    return 1 - sum(cache["blocks_ran"] for cache in caches) / sum(cache["blocks_asked"] for cache in caches) if caches else 0.0


def test_calibrate_leaves_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    run("calibrate")
    assert len(list(Path("output/tables").glob("*.json"))) == 1
    assert "20 steps measured" in capsys.readouterr().out


def test_tune_finds_what_stands_beside_it() -> None:
    run("tune")
    best = json.loads(Path("output/tune/tuning.json").read_text(encoding="utf-8"))["best"]
    settings = f"threshold {best['settings']['threshold']:g}, max_skips {best['settings']['max_skips']}"
    check(f"tune, {settings}", best["cut"], best["quality"]["ssim"])
    assert best["quality"]["ssim"] >= 0.95


def test_the_first_examples_run_and_save_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, on the demo model and in few steps."""
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "WanModel.load(" in block)
    shorter = {
        r"WanModel\.load\(.*\)": "load_demo('two experts')", "WanModel": "load_demo", "width=832, height=480, frames=81":
        "width=64, height=64, frames=5", "steps=40": "steps=4",
    }  # fmt: skip
    for long, short in shorter.items():
        assert re.search(long, example)
        example = re.sub(long, short, example)
    (many,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "generate_many" in block)
    (tmp_path / "example.py").write_text(f"{example}\n{many}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("example.py")
    assert names["outcome"].name == "2" and names["outcome"].latents.shape == names["generation"].latents.shape
    with av.open("fox.mp4") as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(64, 64)] * 5


def test_the_workflows_that_it_names_are_there() -> None:
    workflows = Path(__file__).resolve().parents[2] / "workflows"
    files = {file.stem for file in workflows.glob("FastVideo_wan*.json")}
    assert set(re.findall(r"`(FastVideo_wan\S*)`", README)) == files
    demos = {file.stem.removeprefix("demo_") for file in (workflows / "api").glob("demo_*.json")}
    (named,) = re.findall(r"`FastVideo_demo_\.\.\.`(.*?)\n\n", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) == demos


def test_the_platforms_that_it_names_have_a_lock() -> None:
    locks = [file.name for file in (Path(__file__).resolve().parents[2] / "tools" / "locks").glob("pack-*.lock")]
    assert locks == ["pack-cp311-linux-x86_64.lock"] and "Python 3.11 on Linux (x86-64)" in README
