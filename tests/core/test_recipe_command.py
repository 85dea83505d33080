"""`python -m fastvideo_core recipes`: the table, rows of it, and what names tell."""

import shutil
from pathlib import Path

import pytest

from fastvideo_core import RECIPES
from fastvideo_core.__main__ import main
from fastvideo_core.wan.demo import FOLDER


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["recipes", *arguments]) == 0
    return capsys.readouterr().out


def test_it_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    head, line, *rows = told(capsys).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "recipe", "steps", "noise levels", "solver", "guidance", "experts", "off",
    ]  # fmt: skip
    assert line.count("---") == 7
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == list(RECIPES)
    by_name = {row[0]: row[1:] for row in cells}
    assert by_name["turbo_i2v"] == [
        "2 + 2", "0.995 0.9338 0.8529 0.609", "dmd_float64", "1", "high_noise, low_noise", "step cache",
    ]  # fmt: skip
    assert by_name["three_phases_1_4_3"][0] == "1 + 4 + 3" and by_name["three_phases_1_4_3"][3] == "3.5, then 1"
    assert by_name["anyflow"][2] == "euler" and by_name["fusionx_10"][5] == "nothing"


def test_it_tells_all_about_the_named_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "causvid", "anyflow").strip() == "\n\n".join(RECIPES[name].text() for name in ("causvid", "anyflow"))


def test_it_recognises_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "--recognise", "FastWan2.2-TI2V-5B").splitlines()
    assert [line.split()[0] for line in lines] == ["fastwan_2.2_5b", "fastwan_2.2_5b_warped"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fast"], "Recipe 'fast' is unknown. Known: lightx2v_flf2v,"),
        (["--recognise", "model.safetensors"], "Nothing in model.safetensors tells of a recipe."),
    ],
)
def test_what_is_not_there_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", *arguments]) == 1
    assert f"python -m fastvideo_core recipes: {words}" in capsys.readouterr().err


@pytest.fixture
def fast(tmp_path: Path) -> list[str]:
    """The demo under the name of a few-step model, and what else a generation needs."""
    path = tmp_path / "FastWan2.1-T2V-1.3B.safetensors"
    shutil.copy(FOLDER / "demo_wan_t2v.safetensors", path)
    files = ("--vae", str(FOLDER / "demo_wan_vae.safetensors"), "--text-encoder", str(FOLDER / "demo_umt5.safetensors"))
    small = ("--width", "64", "--height", "64", "--frames", "5", "--steps", "3", "--shift", "5", "--guidance-scale", "3")
    return ["--transformer", str(path), *files, *small, "--dtype", "float32", "--vae-dtype", "float32"]


CONTRADICTIONS = ("guidance_scale is 3", "solver is unipc", "A step begins at noise level 0.9091")


def check_told(lines: list[str], of: str = "") -> None:
    """Before all else."""
    told = [line for line in lines if line.startswith(f"{of}By its names the model is one of fastwan_2.1_1.3b (")]
    assert lines[: len(told)] == told
    assert [sum(sentence in line for line in told) for sentence in CONTRADICTIONS] == [1] * 3


def test_compare_tells_what_contradicts_a_model_s_recipe(
    fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recognised by the name of its file, before anything runs."""
    assert main(["compare", *fast, "--prompt", "a circle", "--case", "gate=0.5", "--output", str(tmp_path / "out")]) == 0
    check_told(capsys.readouterr().out.splitlines(), "gate=0.5: ")


def test_calibrate_and_generate_tell_it_too(fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *fast, "--prompt", "a circle", "--output", str(tmp_path / "tables")]) == 0
    check_told(capsys.readouterr().out.splitlines())
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a circle\na square\n", "utf-8")
    assert main(["generate", *fast, "--prompts", str(prompts), "--output", str(tmp_path / "videos")]) == 0
    check_told(capsys.readouterr().out.splitlines())  # once for both


def test_tune_tells_it_and_that_there_is_nothing_to_tune(
    fast: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *fast, "--prompt", "a circle", "--cache", "dbcache", "--output", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    check_told(shown.out.splitlines())
    assert "There is nothing to tune: DBCache stands aside: by its names the model is one of fastwan_2.1_1.3b" in shown.err
