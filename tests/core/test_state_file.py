"""The file of a state: whole or refused, and never half written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from state_cases import state_after
from torch import Tensor

from fastvideo_core import GenerationState, LoadError, RequestError
from fastvideo_core.state import KEY


def told(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A file whose JSON is changed."""

    def write(path: Path) -> None:
        tensors, content = parts(path)
        change(content)
        save_file(tensors, path, {KEY: json.dumps(content)})

    return write


def with_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tensors, content = parts(path)
        change(tensors)
        save_file(tensors, path, {KEY: json.dumps(content)})

    return write


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(str(path), framework="pt") as file:
        content = json.loads(file.metadata()[KEY])
    return {name: tensor.clone() for name, tensor in load_file(path).items()}, content


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn in its tensors": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "torn in its header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "text": lambda path: path.write_text("no state"),
    "a foreign file": lambda path: save_file({"weight": torch.zeros(2)}, path),
    "a foreign file with the key": lambda path: save_file({"weight": torch.zeros(2)}, path, {KEY: "{}"}),
    "no JSON": lambda path: save_file({"latents": torch.zeros(2)}, path, {KEY: "{"}),
    "a list": lambda path: save_file({"latents": torch.zeros(2)}, path, {KEY: "[]"}),
    "without latents": with_tensors(lambda tensors: tensors.pop("latents")),
    "without history": with_tensors(lambda tensors: tensors.pop("solver.last")),
    "with another tensor": with_tensors(lambda tensors: tensors.update(more=torch.zeros(1))),
    "another shape": with_tensors(lambda tensors: tensors.update(latents=torch.zeros(1, 16, 2, 4, 8))),
    "another shape of history": with_tensors(lambda tensors: tensors.update({"solver.last": torch.zeros(3)})),
    "NaN": with_tensors(lambda tensors: tensors["latents"].fill_(float("nan"))),
    "infinite history": with_tensors(lambda tensors: tensors["solver.last"].fill_(float("inf"))),
    "another dtype": with_tensors(lambda tensors: tensors.update(latents=tensors["latents"].double())),
    "without step": told(lambda content: content.pop("step")),
    "step as text": told(lambda content: content.update(step="2")),
    "step beyond": told(lambda content: content.update(step=99)),
    "step below": told(lambda content: content.update(step=-1)),
    "batched as text": told(lambda content: content.update(batched="yes")),
    "more": told(lambda content: content.update(more=1)),
    "about as text": told(lambda content: content.update(about="x")),
    "another version": told(lambda content: content["about"].update(version=2)),
    "without request": told(lambda content: content["about"].pop("request")),
    "no solver": told(lambda content: content["about"]["request"].update(solver="heun")),
    "no levels": told(lambda content: content["about"]["request"].pop("sigmas")),
    "wrong levels": told(lambda content: content["about"]["request"].update(sigmas=[0.0, 1.0])),
    "shape as text": told(lambda content: content["about"].update(latent_shape="big")),
    "weights as list": told(lambda content: content["about"].update(weights=[])),
    "linears as text": told(lambda content: content["about"].update(linears="x")),
    "linears of other rows": told(lambda content: content["about"].update(linears=[[1, 2]])),
    "linears of names": told(lambda content: content["about"].update(linears=[["a", 1, 1, 1, "torch"]])),
    "conditioning as number": told(lambda content: content["about"].update(conditioning=3)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_advice(what: str, tmp_path: Path) -> None:
    file = state_after(2).save(tmp_path / "state.safetensors")
    BROKEN[what](file)
    with pytest.raises(LoadError, match=r"state\.safetensors is no state of a generation, begin anew or give a file that"):
        GenerationState.load(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(LoadError, match=r"There is no state of a generation at .*generation\.state\(\)\.save"):
            GenerationState.load(path)


def test_what_is_no_path_is_refused() -> None:
    for ask in (GenerationState.load, state_after(0).save):
        with pytest.raises(RequestError, match="path is 3: give the path of a file"):
            ask(3)


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    state = state_after(1)
    with pytest.raises(RequestError, match=r"state\.safetensors cannot be written: .* It needs a folder that exists"):
        state.save(tmp_path / "nowhere" / "state.safetensors")
    with pytest.raises(RequestError, match="cannot be written"):
        state.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_save_over_an_older_state_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    older, newer = state_after(1), state_after(3)
    older.save(file)
    loaded = GenerationState.load(file)
    newer.save(file)
    assert torch.equal(loaded.latents, older.latents), "what was loaded does not lie in the file"
    assert GenerationState.load(file).step == 3 and [path.name for path in tmp_path.iterdir()] == [file.name]
