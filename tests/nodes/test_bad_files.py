"""FastVideo Load Diffusers Model given what is no network, through ComfyUI's real validation and executor."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caching import module_of
from graphs import node, sampler_prompt
from safetensors.torch import load_file, save_file
from tiny_wan import METADATA, random_weights

from fastvideo_core import LoadError
from tools.comfy_in_process import PromptFailed, PromptRefused

FILES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "cut off": (lambda good, bad: bad.write_bytes(good.read_bytes()[:5000]), r"is not a whole safetensors file.*download"),
    "pickle": (lambda _, bad: bad.write_bytes(b"\x80\x02}q\x00."), r"Python pickle, which can run code"),
    "web page": (lambda _, bad: bad.write_bytes(b"<html>sign in</html>"), r"It is a web page"),
    "empty": (lambda _, bad: bad.write_bytes(b""), r"is not a whole safetensors file"),
    "VAE": (lambda _, bad: save_file({"decoder.conv1.weight": torch.zeros(2)}, bad), r"It looks like a VAE"),
    "part missing": (
        lambda good, bad: save_file({k: v for k, v in load_file(good).items() if "blocks.1.ffn" not in k}, bad, METADATA),
        r"missing blocks\.1\.ffn",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_files_that_hold_no_network_say_what_they_are(tiny: Any, what: str) -> None:
    write, words = FILES[what]
    folder = tiny.model_folder("diffusion_models")
    name = f"bad_{what.replace(' ', '_')}.safetensors"
    write(folder / "t2v_0.safetensors", folder / name)
    loader = node("FastVideoLoadDiffusersModel", model_name=name, dtype="as stored", lora_name="none", lora_strength=1.0)
    tiny.reset()
    with pytest.raises(PromptFailed, match=rf"(?s)^FastVideoLoadDiffusersModel: fastvideo_core\.errors\.LoadError: .*{words}"):
        tiny.run({**sampler_prompt(), "1": loader})


BIAS = "blocks.1.ffn.0.bias"
TORN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda weights: weights.pop(BIAS), r"is not whole, 1 weight of it: blocks\.1\.ffn\.0\.bias is missing"),
    "shape": (lambda weights: weights.update({BIAS: weights[BIAS][None]}), r"bias is \(1, 128\), not \(128,\)"),
    "kind": (lambda weights: weights.update({BIAS: weights[BIAS].int()}), r"bias is of whole numbers"),
    "gap": (lambda weights: [weights.pop(name) for name in list(weights) if "blocks.1." in name], r"is of a block too many"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["t2v", "i2v_clip", "flf2v", "ti2v"])
@pytest.mark.parametrize("torn", TORN)
def test_workers_are_not_given_a_file_that_is_not_whole(comfy: Any, kind: str, torn: str, tmp_path: Path) -> None:
    """Core would leave what it lacks as it is in memory."""
    heads_of, file = module_of(comfy, "native.worker_file").heads_of, tmp_path / "w.safetensors"
    weights = random_weights(kind, 0, layers=3)
    save_file(weights, file, METADATA)
    assert heads_of(file) == 1
    change, words = TORN[torn]
    change(weights)
    save_file(weights, file, METADATA)
    with pytest.raises(LoadError, match=words):
        heads_of(file)


@pytest.mark.parametrize("config", ["{", '{"transformer": {"num_heads": 0, "text_dim": -1}}'])
def test_workers_are_not_given_a_file_whose_header_lies(comfy: Any, config: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(random_weights("t2v", 0), file, {"config": config})
    with pytest.raises(LoadError, match=r"w\.safetensors tells of no network that can be made"):
        module_of(comfy, "native.worker_file").heads_of(file)


@pytest.mark.parametrize("name", ["../../t2v_0.safetensors", "/etc/passwd", "gone.safetensors", "", None, 7])
def test_names_that_are_not_in_the_list_are_refused(tiny: Any, name: Any) -> None:
    loader = node("FastVideoLoadDiffusersModel", model_name=name, dtype="as stored", lora_name="none", lora_strength=1.0)
    with pytest.raises(PromptRefused, match=r"node 1 \(FastVideoLoadDiffusersModel\): "):
        tiny.run({**sampler_prompt(), "1": loader})


def test_file_that_is_deleted_after_it_was_listed(tiny: Any) -> None:
    """ComfyUI keeps its list for as long as the folder's time is the same."""
    folder = tiny.model_folder("diffusion_models")
    file = folder / "deleted.safetensors"
    file.write_bytes(b"x")
    loader = node("FastVideoLoadDiffusersModel", model_name=file.name, dtype="as stored", lora_name="none", lora_strength=1.0)
    tiny.validate({**sampler_prompt(), "1": loader})
    time = folder.stat().st_mtime_ns
    file.unlink()
    os.utime(folder, ns=(time, time))
    with pytest.raises(PromptFailed, match=r"LoadError: There is no 'deleted\.safetensors' in ComfyUI's"):
        tiny.run({**sampler_prompt(), "1": loader})


BROKEN = {"deep": b"[" * 200_000, "bytes": b"\xff\xfe", "list": b"[]", "number": b'{"_class_name": 7}', "folder": None}


def test_broken_configurations_take_no_node_off_the_list(tiny: Any) -> None:
    """Both nodes that offer transformer folders look into every config.json below ComfyUI's diffusers folder."""
    root = tiny.model_folder("diffusers")
    for name, content in BROKEN.items():
        file = root / "broken" / name / "config.json"
        file.parent.mkdir(parents=True)
        file.mkdir() if content is None else file.write_bytes(content)
    good = root / "whole" / "transformer" / "config.json"
    good.parent.mkdir(parents=True)
    good.write_text('{"_class_name": "WanTransformer3DModel"}')
    try:
        for node_id, name in (("FastVideoLoadDiffusersModel", "model_name"), ("FastVideoSparseAttention", "trained_weights")):
            (offered,) = (given.options for given in tiny.node_classes[node_id].define_schema().inputs if given.id == name)
            assert [option for option in offered if option.startswith(("broken", "whole"))] == ["whole/transformer"]
    finally:
        for folder in ("broken", "whole"):
            shutil.rmtree(root / folder)
