"""Rounding does not change a fingerprint, a fine-tune does."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from fastvideo_core import LoadError
from fastvideo_core.step_cache import Fingerprint, fingerprint, published_tables, ratio_table, read_table
from fastvideo_core.step_cache.fingerprint import SAME, read_fingerprint
from fastvideo_core.wan.demo import FOLDER
from fastvideo_core.wan.loading import original_keys

Weights = dict[str, Tensor]


def rounded(*dtypes: torch.dtype) -> Callable[[Weights], Weights]:
    """Through each of the dtypes in turn; the first is as a file has it, the last as it is loaded."""

    def cast(weights: Weights) -> Weights:
        for dtype in dtypes:
            weights = {name: weight.to(dtype) for name, weight in weights.items()}
        return weights

    return cast


def packed(weights: Weights) -> Weights:
    """As the formats of 8 and 4 bits do: the matrices only, and in shapes of their own."""
    matrices = {name: torch.zeros(w.shape[0], w.shape[1] // 2, dtype=torch.uint8) for name, w in weights.items() if w.ndim == 2}
    return weights | matrices


FLOAT8, HALF = torch.float8_e4m3fn, torch.float16
FILES: dict[str, Callable[[Weights], Weights]] = {
    "fp32": rounded(torch.float32),
    "bf16": rounded(torch.bfloat16),
    "fp16": rounded(HALF),
    "fp16 from bf16": rounded(torch.bfloat16, HALF),
    "packed": packed,
    "packed, bf16": lambda weights: packed(rounded(torch.bfloat16)(weights)),
}
FLOAT8_FILES: dict[str, Callable[[Weights], Weights]] = {
    "fp8": rounded(FLOAT8),
    "fp8 from bf16": rounded(torch.bfloat16, FLOAT8),
    "fp8, loaded in bf16": rounded(FLOAT8, torch.bfloat16),
}


def weights_of(name: str) -> Weights:
    """A demo model, as if in float32: the files' values are of half precision."""
    generator = torch.Generator().manual_seed(0)
    stored = load_file(FOLDER / f"demo_wan_{name}.safetensors")
    return {key: w.float() * (1 + 2e-4 * (torch.rand(w.shape, generator=generator) - 0.5)) for key, w in stored.items()}


def prints(name: str) -> dict[str, Fingerprint]:
    weights = weights_of(name)
    return {kind: fingerprint(made(weights)) for kind, made in (FILES | FLOAT8_FILES).items()}


def test_files_of_one_checkpoint_agree_in_every_precision() -> None:
    for (first, one), (second, other) in itertools.combinations(prints("t2v").items(), 2):
        in_float8 = {first, second} & FLOAT8_FILES.keys()
        assert one.agreement(other) == other.agreement(one) >= (SAME if in_float8 else 1), (first, second)


def test_a_fine_tune_is_another_checkpoint_in_every_precision() -> None:
    """The demo's experts went on from the text-to-video model for 200 and 300 steps."""
    names = ("t2v", "high_noise", "low_noise")
    for one, other in itertools.combinations(map(prints, names), 2):
        for (first, a), (second, b) in itertools.product(one.items(), other.items()):
            in_float8 = {first, second} & FLOAT8_FILES.keys()
            assert a.agreement(b) < (SAME if in_float8 else 0.6), (first, second)


@pytest.mark.parametrize(("change", "same"), [(0.002, True), (0.01, False), (0.03, False)])
def test_how_small_a_change_is_told(change: float, same: bool) -> None:
    """Of 16-bit files a change of 1 %, of float8 files one of 3 %."""
    weights = {f"blocks.{i}.norm3.weight": tiny.normal((64,), i) for i in range(64)}
    changed = {name: weight * (1 + change * tiny.normal((64,), i)) for i, (name, weight) in enumerate(weights.items())}
    for kind in ("bf16", "fp8") if change != 0.01 else ("bf16",):
        made = (FILES | FLOAT8_FILES)[kind]
        assert (fingerprint(made(weights)).agreement(fingerprint(made(changed))) >= SAME) is same


def test_networks_of_other_layers_do_not_agree() -> None:
    t2v, i2v = (fingerprint(original_keys(network.state_dict())) for network in (tiny.t2v(), tiny.i2v_clip()))
    wide = fingerprint({name: torch.cat([w, w]) for name, w in original_keys(tiny.t2v().state_dict()).items()})
    assert t2v.agreement(t2v) == 1
    assert max(t2v.agreement(i2v), t2v.agreement(wide), t2v.agreement(Fingerprint("none", {}))) < 0.5


def test_a_file_tells_the_very_values() -> None:
    told = fingerprint(original_keys(tiny.t2v().state_dict()))
    assert read_fingerprint(told.json()) == told


def put(folder: Path, *weights: Fingerprint, name: str = "", seconds: int = 0) -> str:
    """A table that was measured on these networks, written that many seconds later than others."""
    published = published_tables()["wan2.1_t2v_1.3B" if len(weights) == 1 else "wan2.2_t2v_A14B"]
    name = name or "_".join(network.name for network in weights)
    file = folder / f"{name}.json"
    file.write_text(replace(published, name=name, weights=weights).json(), "utf-8")
    os.utime(file, (seconds, seconds))
    return name


def chosen(folder: Path, *weights: Fingerprint, two_experts: bool = False) -> str:
    return ratio_table(weights, [folder], [], two_experts=two_experts, pixels=1, first_frame=False).name


def test_a_table_serves_the_other_precisions_of_its_checkpoint(tmp_path: Path) -> None:
    t2v, high, low = map(prints, ("t2v", "high_noise", "low_noise"))
    name = put(tmp_path, t2v["bf16"])
    assert {chosen(tmp_path, told) for told in t2v.values()} == {name}
    with pytest.raises(LoadError, match="no ratio table"):
        chosen(tmp_path, high["fp8"])
    pair = put(tmp_path, high["packed"], low["packed"])
    assert chosen(tmp_path, high["fp8"], low["fp8"], two_experts=True) == pair
    assert chosen(tmp_path, low["fp16"], two_experts=True) == pair
    for wrong in ([low["fp16"], high["fp16"]], [t2v["fp16"]]):
        with pytest.raises(LoadError, match="no ratio table"):
            chosen(tmp_path, *wrong, two_experts=True)


def test_the_very_file_comes_first_then_the_nearest_then_the_latest(tmp_path: Path) -> None:
    t2v, changed = weights_of("t2v"), weights_of("t2v")
    changed["blocks.0.norm3.bias"] += 1
    base, tuned = ({kind: fingerprint(FILES[kind](w)) for kind in ("fp32", "bf16", "fp16")} for w in (t2v, changed))
    assert SAME <= base["fp16"].agreement(tuned["fp16"]) < 1
    put(tmp_path, base["bf16"], seconds=1)
    put(tmp_path, tuned["bf16"], seconds=9)
    assert chosen(tmp_path, base["bf16"]) == base["bf16"].name
    assert chosen(tmp_path, base["fp16"]) == base["bf16"].name
    assert chosen(tmp_path, tuned["fp16"]) == tuned["bf16"].name
    assert chosen(tmp_path, base["fp16"]) != put(tmp_path, base["fp32"], name="a name of one's own", seconds=0)
    put(tmp_path, base["fp32"], name="a later one", seconds=5)
    assert chosen(tmp_path, base["fp16"]) == "a later one"


def test_tables_of_earlier_versions_are_known_by_their_names(tmp_path: Path) -> None:
    t2v = prints("t2v")
    file = tmp_path / f"{t2v['fp16'].name}.json"
    table = replace(published_tables()["wan2.1_t2v_1.3B"], name=file.stem)
    file.write_text(table.json().replace(',\n "weights": []', ""), "utf-8")
    assert "weights" not in file.read_text("utf-8")
    assert read_table(file) == table
    assert chosen(tmp_path, t2v["fp16"]) == file.stem
    with pytest.raises(LoadError, match="no ratio table"):
        chosen(tmp_path, t2v["fp8"])


def test_the_demo_models_tables_serve_every_precision() -> None:
    for names in (("t2v",), ("high_noise", "low_noise")):
        told = [fingerprint(rounded(FLOAT8)(load_file(FOLDER / f"demo_wan_{name}.safetensors"))) for name in names]
        own = [fingerprint(load_file(FOLDER / f"demo_wan_{name}.safetensors")) for name in names]
        assert chosen(FOLDER, *told, two_experts=len(names) == 2) == "_".join(one.name for one in own)
