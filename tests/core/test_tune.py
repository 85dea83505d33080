"""Auto-tune: the search over a ladder of settings, and the command on the demo model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastvideo_core import Attempt, CacheSettings, RequestError, Speed, TunedCache, tune
from fastvideo_core.__main__ import main
from fastvideo_core.quality import FrameQuality
from fastvideo_core.tune import LADDERS

SPEED = Speed(ratio=2.0, low=1.5, high=2.5)
PROMPT = "a red circle moving left over a teal background"


def falling(similarities: list[float], cache: TunedCache = "magcache") -> Callable[[CacheSettings], Attempt]:
    """What a generation at each rung would give."""
    rungs = LADDERS[cache]

    def attempt(settings: CacheSettings) -> Attempt:
        rung = rungs.index(settings)
        quality = FrameQuality(psnr=40.0 - rung, ssim=similarities[rung])
        return Attempt(settings=settings, quality=quality, cut=0.1 * rung, speed=SPEED, seconds=3.0)

    return attempt


@pytest.mark.parametrize("cache", LADDERS)
@pytest.mark.parametrize("last", range(8))
def test_the_last_rung_that_reaches_the_target_is_found_in_four_runs(cache: TunedCache, last: int) -> None:
    similarities = [0.97 if rung <= last else 0.93 for rung in range(8)]
    found = tune(cache, 0.95, falling(similarities, cache))
    assert found.best.settings == LADDERS[cache][last]
    assert len(found.attempts) <= 4
    assert [attempt.cut for attempt in found.attempts] == sorted(attempt.cut for attempt in found.attempts)


def test_the_first_line_tells_seconds_speed_and_likeness() -> None:
    first, tried, *rest = tune("magcache", 0.95, falling([0.97] * 3 + [0.93] * 5)).text().splitlines()
    told = "3.00 s, speed-up 2.00 (1.50 - 2.50), SSIM 0.9700"
    assert first == f"{told}: magcache with threshold 0.12, max_skips 1, which saves most and reaches SSIM 0.95"
    assert tried == "tried 3 of 8 settings:"
    assert f"  threshold 0.12, max_skips 1: {told}, PSNR 38.0 dB, 20% of the block calls saved" in rest


def test_a_target_out_of_reach_is_an_error_that_lists_what_was_tried() -> None:
    words = (
        r"No setting of magcache reaches SSIM 0\.99 on this video; the nearest is 0\.9200, with threshold 0\.03, max_skips 1\."
    )
    with pytest.raises(RequestError, match=words + r"(.|\n)*threshold 0\.06, max_skips 1: .*SSIM 0\.9000"):
        tune("magcache", 0.99, falling([0.92, *[0.9] * 7]))


@pytest.mark.parametrize("target", [0.0, 1.01, -1.0, float("nan")])
def test_a_target_that_is_no_ssim_is_refused(target: float) -> None:
    with pytest.raises(RequestError, match="wanted SSIM"):
        tune("magcache", target, falling([0.9] * 8))


def test_json_is_strict_also_where_videos_are_equal() -> None:
    def equal(settings: CacheSettings) -> Attempt:
        return Attempt(settings=settings, quality=FrameQuality(psnr=float("inf"), ssim=1.0), cut=0.0, speed=SPEED, seconds=3.0)

    data = json.loads(tune("dbcache", 0.9, equal).json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["best"]["quality"] == {"ssim": 1.0, "psnr": None}
    assert data["best"]["settings"]["threshold"] == 0.5


@pytest.mark.parametrize("cache", LADDERS)
def test_the_command_finds_settings_that_reach_the_target(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", PROMPT, "--steps", "12", "--frames", "5", "--guidance-mode", "batched", "--solver", "euler"]
    assert main(["tune", "--demo", "t2v", *arguments, "--cache", cache, "--ssim", "0.9", "--output", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "tuning.json").read_text())
    assert data["best"]["quality"]["ssim"] >= 0.9
    assert data["best"]["cut"] > 0
    assert all(attempt["cut"] <= data["best"]["cut"] for attempt in data["attempts"] if attempt["quality"]["ssim"] >= 0.9)
    assert f"{cache} with threshold {data['best']['settings']['threshold']:g}, max_skips" in capsys.readouterr().out
    assert Image.open(tmp_path / "tuning.png").size == (720, 320)


def test_a_cache_that_stands_aside_is_nothing_to_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", PROMPT, "--steps", "4", "--frames", "5", "--guidance-scale", "1"]
    output = tmp_path / "some" / "where"
    assert main(["tune", "--demo", "t2v", *arguments, "--output", str(output)]) == 1
    assert not list(tmp_path.iterdir())  # no empty folder is left
    assert "nothing to tune: MagCache stands aside" in capsys.readouterr().err
