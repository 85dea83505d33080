"""JSON from others: whatever is in it, the error is ours and names the file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformer as files
from tiny_model import pipeline_of

from fastvideo_core import FastVideoError, ImageEncoder, LoadError, TextEncoder, VideoVAE
from fastvideo_core.json_object import read_json_file
from fastvideo_core.step_cache import Fingerprint, published_tables, ratio_table, read_table
from fastvideo_core.wan.loading import apply_lora, load_transformer
from fastvideo_core.wan.parts import read_index

DEEP = "[" * 200_000
WRONG: tuple[Any, ...] = ("x", -1, 0, 10**12, 1e400, float("nan"), None, [], {}, True, [["x"]])


def refused(load: Callable[[Path], Any], file: Path, name: str = "") -> str:
    with pytest.raises(LoadError) as caught:
        load(file)
    assert (name or str(file)) in str(caught.value)
    return str(caught.value)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a JSON value, of a list its first one."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value in one place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("content", [DEEP.encode(), b"{", b"[]", b"\xff\xfe\x00", b"", b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_object_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    refused(read_json_file, file)
    refused(read_table, file)
    refused(read_json_file, tmp_path / "a folder.json")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    pipeline_of("i2v clip").save_pretrained(folder)
    return folder


PARTS: dict[str, Callable[[Path], Any]] = {
    "model_index.json": read_index,
    "transformer/config.json": lambda folder: load_transformer(folder / "transformer"),
    "vae/config.json": VideoVAE.load,
    "text_encoder/config.json": TextEncoder.load,
    "tokenizer/tokenizer.json": TextEncoder.load,
    "image_encoder/config.json": ImageEncoder.load,
    "image_processor/preprocessor_config.json": ImageEncoder.load,
}


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("model_index.json", {"boundary_ratio": "x"}, "boundary_ratio is 'x'"),
        ("transformer/config.json", {"eps": "x"}, "eps is 'x'"),
        ("transformer/config.json", {"num_layers": 10**6}, "num_layers is 1000000, and must be a whole number from 1 to 1000"),
        ("vae/config.json", {"base_dim": 0}, "base_dim is 0"),
        ("text_encoder/config.json", {"dense_act_fn": "x"}, "wrong value: KeyError('x')"),
        ("image_encoder/config.json", {"patch_size": 0}, "wrong value: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_in_a_repository_is_said(name: str, changes: dict[str, Any], words: str, repository: Path) -> None:
    file = repository / name
    whole = file.read_text("utf-8")
    file.write_text(json.dumps(json.loads(whole) | changes), "utf-8")
    try:
        with pytest.raises(LoadError) as caught:
            PARTS[name](repository)
        assert words in str(caught.value) and str(file.parent) in str(caught.value)
    finally:
        file.write_text(whole, "utf-8")


@pytest.mark.parametrize("name", PARTS)
def test_a_repositorys_part_with_any_value_of_another_kind_is_refused_by_name_or_loads(name: str, repository: Path) -> None:
    file = repository / name
    whole = file.read_text("utf-8")
    good = json.loads(whole)
    try:
        for text in (DEEP, *(json.dumps(changed(good, path, WRONG[i % len(WRONG)])) for i, path in enumerate(leaves(good)))):
            file.write_text(text, "utf-8")
            try:
                PARTS[name](repository)
            except LoadError as error:
                assert str(file.parent) in str(error), text[:2000]
    finally:
        file.write_text(whole, "utf-8")


def table() -> dict[str, Any]:
    """As it stands in a file; of two experts and few steps."""
    from dataclasses import replace

    published = published_tables()["wan2.2_t2v_A14B"]
    weights = (Fingerprint("a" * 16, {"blocks.0.norm3.bias": (0.1, 0.2)}), Fingerprint("b" * 16, {}))
    whole: dict[str, Any] = json.loads(replace(published, weights=weights).json())
    return whole


def test_a_table_with_any_value_of_another_kind_is_refused_by_name_or_harmless(tmp_path: Path) -> None:
    file, good = tmp_path / "table.json", table()
    file.write_text(json.dumps(good), "utf-8")
    read_table(file)
    told = 0
    for path in leaves(good):
        for wrong in WRONG:
            file.write_text(json.dumps(changed(good, path, wrong)), "utf-8")
            try:
                read_table(file)
            except LoadError as error:
                assert str(file) in str(error), (path, wrong)
                told += 1
    assert told > 300


@pytest.mark.parametrize(
    ("path", "wrong", "words"),
    [
        (("sigmas",), [1.0, 0.5, 0.7, 0.0], "strictly decrease"),
        (("sigmas", 0), 1.5, "noise levels lie in 0..1"),
        (("presets", "authors", "threshold"), -1, "threshold is -1"),
        (("shift",), "x", "shift is 'x'"),
        (("phases", 0, "expert"), "single", "experts are not high_noise and low_noise"),
        (("phases", 0, "ratios"), {"both": [1.0]}, "a branch is 'both'"),
        (("phases", 0, "ratios", "positive", 0), "x", "a value is 'x'"),
        (("steps",), 10**12, ""),
    ],
)
def test_what_is_wrong_in_a_table_is_said(path: tuple[Any, ...], wrong: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(changed(table(), path, wrong)), "utf-8")
    if words:
        assert words in refused(read_table, file)
    else:
        assert read_table(file).steps == 40, "the noise levels count"


def test_a_broken_table_stands_in_nobodys_way_and_is_named_where_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(DEEP, "utf-8")
    (tmp_path / "a folder.json").mkdir()
    choose: dict[str, Any] = {"two_experts": False, "pixels": 1, "first_frame": False}
    with pytest.raises(LoadError, match=r"no ratio table for this model .*These files are no ratio tables: .*broken\.json"):
        ratio_table([Fingerprint("0" * 16, {})], [tmp_path], [], **choose)
    good = published_tables()["wan2.1_t2v_1.3B"]
    (tmp_path / f"{'1' * 16}.json").write_text(good.json(), "utf-8")
    assert ratio_table([Fingerprint("1" * 16, {})], [tmp_path], [], **choose).name == good.name


def test_a_folder_with_any_value_of_another_kind_is_refused_by_name_or_loads(tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    for i, path in enumerate(leaves(good)):
        for wrong in WRONG[i % 3 :: 3]:
            file.write_text(json.dumps(changed(good, path, wrong)))
            try:
                load_transformer(tmp_path)
            except FastVideoError as error:
                assert str(tmp_path) in str(error), (path, wrong)


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("config", {"transformer": {"num_heads": 2, "text_dim": tiny.TEXT_DIM, "eps": 1e-6}}),
        ("_quantization_metadata", {"layers": {"blocks.0.ffn.0": {"format": "float8_e4m3fn"}}}),
    ],
)
def test_a_files_metadata_of_any_kind_is_refused_by_name_or_loads(key: str, good: dict[str, Any], tmp_path: Path) -> None:
    weights = files.original(tiny.t2v())
    file = tmp_path / "wan.safetensors"
    for path in leaves(good):
        for wrong in (*WRONG, DEEP):
            text = DEEP if wrong is DEEP else json.dumps(changed(good, path, wrong))
            files.save(weights, file, files.TWO_HEADS | {key: text})
            try:
                load_transformer(file)
            except LoadError as error:
                assert str(file) in str(error), (path, wrong)


def test_a_loras_metadata_of_any_kind_is_refused_by_name_or_applied(tmp_path: Path) -> None:
    network = tiny.t2v()
    lora, file = files.lightx2v_lora(network), tmp_path / "lora.safetensors"
    good = {"transformer.lora_alpha": 3.0, "transformer.use_rslora": True, "transformer.alpha_pattern": {"to_q": 1.0}}
    for i, path in enumerate(leaves(good)):
        for wrong in (*WRONG[i % 2 :: 2], DEEP):
            text = DEEP if wrong is DEEP else json.dumps(changed(good, path, wrong))
            files.save(lora, file, {"lora_adapter_metadata": text})
            try:
                apply_lora(network, file)
            except LoadError as error:
                assert str(file) in str(error), (path, wrong)
