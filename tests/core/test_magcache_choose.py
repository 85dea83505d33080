"""Which ratio table serves a model."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastvideo_core import LoadError
from fastvideo_core.step_cache import Fingerprint, published_tables, ratio_table, recommended
from fastvideo_core.step_cache.choose import CALIBRATED
from fastvideo_core.wan import VARIANTS


def choose(*names: str, weights: str = "0" * 16, folders: tuple[Path, ...] = (), **changes: Any) -> str:
    """The name of the table."""
    inputs = {"two_experts": False, "pixels": 832 * 480, "first_frame": False, **changes}
    told = [Fingerprint(one, {}) for one in weights.split("_")]
    return ratio_table(told, folders, [VARIANTS[name] for name in names], **inputs).name


def put(folder: Path, name: str, seconds: int = 0) -> None:
    """A calibrated table of that name, written that many seconds later than others."""
    file = folder / f"{name}.json"
    file.write_text(replace(published_tables()["wan2.1_t2v_1.3B"], name=name, presets={}).json(), "utf-8")
    os.utime(file, (seconds, seconds))


@pytest.mark.parametrize("name", sorted(set(published_tables()) & set(VARIANTS)))
def test_a_published_variant_has_its_published_table(name: str) -> None:
    assert choose(name) == name


@pytest.mark.parametrize(("pixels", "name"), [(832 * 480, "480p"), (640 * 640, "480p"), (1280 * 720, "720p")])
def test_the_size_of_the_video_tells_networks_of_one_size_apart(pixels: int, name: str) -> None:
    assert choose("wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B", pixels=pixels) == f"wan2.1_i2v_{name}_14B"


@pytest.mark.parametrize(("first_frame", "name"), [(True, "i2v"), (False, "t2v")])
def test_ti2v_has_a_table_with_a_given_frame_and_one_without(first_frame: bool, name: str) -> None:
    assert choose("wan2.2_ti2v_5B", first_frame=first_frame) == f"wan2.2_ti2v_5B_{name}"


def test_a_table_measured_on_the_weights_wins_over_the_published_one(tmp_path: Path) -> None:
    put(tmp_path, "a" * 16)
    assert choose("wan2.1_t2v_14B", weights="a" * 16, folders=(tmp_path,)) == "a" * 16
    assert choose("wan2.1_t2v_14B", weights="b" * 16, folders=(tmp_path,)) == "wan2.1_t2v_14B"


def test_one_of_two_experts_finds_the_table_of_the_pair_and_the_latest_of_several(tmp_path: Path) -> None:
    high, low, other = ("a" * 16, "b" * 16, "c" * 16)
    put(tmp_path, high)
    put(tmp_path, f"{high}_{low}", seconds=5)
    put(tmp_path, f"{high}_{other}", seconds=9)
    for weights, name in ((high, f"{high}_{other}"), (low, f"{high}_{low}"), (f"{high}_{low}", f"{high}_{low}")):
        assert choose(weights=weights, folders=(tmp_path,), two_experts=True) == name
    assert choose(weights=high, folders=(tmp_path,)) == high


@pytest.mark.parametrize("names", [(), ("wan2.1_flf2v_14B",)])
def test_no_table_is_an_error_that_says_how_to_make_one(names: tuple[str, ...]) -> None:
    with pytest.raises(LoadError, match=r"no ratio table for this model \((not a pub|Wan 2.1 FLF).*weights 0{16}\).*Calibrate"):
        choose(*names)


def test_auto_is_what_the_tables_authors_use() -> None:
    table = published_tables()["wan2.2_t2v_A14B"]
    assert recommended(table) == table.presets["authors"]
    assert recommended(replace(table, presets={})) == CALIBRATED
