"""Weights in 8-bit floats become the weights that they stand for, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from torch import Tensor

from fastvideo_core.errors import LoadError
from fastvideo_core.wan.loading import load_transformer, original_keys

FLOAT8 = pytest.mark.parametrize("float8", [torch.float8_e4m3fn, torch.float8_e5m2])
QUERY = "blocks.0.self_attn.q"


def refused(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> str:
    with pytest.raises(LoadError) as caught:
        load_transformer(files.save(weights, path, files.TWO_HEADS | (metadata or {})))
    return str(caught.value)


@FLOAT8
@pytest.mark.parametrize("write", [files.fp8_scaled, files.comfy_quant])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_scaled_files_give_the_weights_they_stand_for(
    write: Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]], prefix: str, float8: torch.dtype, tmp_path: Path
) -> None:
    stored, meant = write(files.original(tiny.i2v_clip()), prefix, float8)
    loaded = original_keys(load_transformer(files.save(stored, tmp_path / "wan.safetensors"), torch.float32).state_dict())
    assert all(torch.equal(loaded[key], tensor) for key, tensor in meant.items())


def test_scaled_files_compute_what_the_plain_file_computes(tmp_path: Path) -> None:
    network = tiny.t2v()
    stored, _ = files.fp8_scaled(files.original(network))
    loaded = load_transformer(files.save(stored, tmp_path / "wan.safetensors"), torch.float32)
    error = tiny.relative_error(files.velocity(loaded), files.velocity(network))
    assert error < 0.03, "three bits of mantissa"
    dropped = {key: tensor for key, tensor in stored.items() if "scale" not in key}
    wrong = load_transformer(files.save(dropped, tmp_path / "dropped.safetensors"), torch.float32)
    assert tiny.relative_error(files.velocity(wrong), files.velocity(network)) > 10 * error, "without scales it is garbage"


def test_formats_told_in_the_header_are_read(tmp_path: Path) -> None:
    stored, meant = files.comfy_quant(files.original(tiny.t2v()))
    layers = {key.removesuffix(".comfy_quant"): {"format": "float8_e4m3fn"} for key in stored if key.endswith(".comfy_quant")}
    tensors = {key: tensor for key, tensor in stored.items() if not key.endswith(".comfy_quant")}
    metadata = files.TWO_HEADS | {"_quantization_metadata": json.dumps({"layers": layers})}
    loaded = load_transformer(files.save(tensors, tmp_path / "wan.safetensors", metadata), torch.float32)
    assert torch.equal(loaded.blocks[0].attn1.to_q.weight, meant[f"{QUERY}.weight"])


@FLOAT8
def test_plain_float8_is_cast(float8: torch.dtype, tmp_path: Path) -> None:
    weights = files.original(tiny.t2v())
    stored = weights | {key: weights[key].to(float8) for key in files.block_linears(weights)}
    loaded = load_transformer(files.save(stored, tmp_path / "wan.safetensors"))
    assert torch.equal(loaded.blocks[0].attn1.to_q.weight, stored[f"{QUERY}.weight"].to(torch.bfloat16))


def test_float8_files_compute_in_bfloat16_when_not_told(tmp_path: Path) -> None:
    stored, meant = files.fp8_scaled(files.original(tiny.t2v()))
    loaded = load_transformer(files.save(stored, tmp_path / "wan.safetensors"))
    assert loaded.blocks[0].attn1.to_q.weight.dtype == loaded.patch_embedding.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.blocks[0].attn1.to_q.weight, meant[f"{QUERY}.weight"].to(torch.bfloat16)), "rounded once"
    assert loaded.blocks[0].scale_shift_table.dtype == torch.float32


def test_a_scale_per_row_is_read(tmp_path: Path) -> None:
    stored, _ = files.comfy_quant(files.original(tiny.t2v()))
    stored[f"{QUERY}.weight_scale"] = torch.linspace(0.5, 1.5, 24).unsqueeze(1)
    loaded = load_transformer(files.save(stored, tmp_path / "wan.safetensors"), torch.float32)
    meant = stored[f"{QUERY}.weight"].float() * stored[f"{QUERY}.weight_scale"]
    assert torch.equal(loaded.blocks[0].attn1.to_q.weight, meant)


@pytest.mark.parametrize("shape", [(24,), (1, 24), (6, 6)])
def test_scales_of_other_layouts_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    stored, _ = files.comfy_quant(files.original(tiny.t2v()))
    words = refused(stored | {f"{QUERY}.weight_scale": torch.ones(shape)}, tmp_path / "wan.safetensors")
    assert f"the scale of {QUERY}.weight has shape {shape}" in words and "fp8_scaled file" in words


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8", "int8_tensorwise", "convrot_w4a4", "invented"])
def test_formats_that_are_not_rescaled_are_refused_by_name(name: str, tmp_path: Path) -> None:
    stored, _ = files.comfy_quant(files.original(tiny.t2v()))
    words = refused(stored | {f"{QUERY}.comfy_quant": files.as_bytes({"format": name})}, tmp_path / "wan.safetensors")
    assert f"is quantised as {name}" in words and "Use the bf16, fp16, fp8 or fp8_scaled file" in words
    metadata = {"_quantization_metadata": json.dumps({"layers": {QUERY: {"format": name}}})}
    assert f"is quantised as {name}" in refused(files.original(tiny.t2v()), tmp_path / "told.safetensors", metadata)


@pytest.mark.parametrize(
    ("companion", "name"),
    [("weight_scale_2", "nvfp4"), ("pre_quant_scale", "ModelOpt"), ("weight.absmax", "bitsandbytes"), ("qweight", "GPTQ")],
)
def test_quantisations_are_recognised_by_their_companions(companion: str, name: str, tmp_path: Path) -> None:
    weights = files.original(tiny.t2v()) | {f"{QUERY}.{companion}": torch.ones(1)}
    assert f"is quantised as {name}" in refused(weights, tmp_path / "wan.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_weights_of_other_dtypes_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = files.original(tiny.t2v())
    weights[f"{QUERY}.weight"] = weights[f"{QUERY}.weight"].to(dtype)
    assert f"{QUERY}.weight is stored as" in refused(weights, tmp_path / "wan.safetensors")


@pytest.mark.parametrize("lost", ["weight", "weight_scale"])
def test_half_of_a_scaled_weight_is_refused(lost: str, tmp_path: Path) -> None:
    stored, _ = files.comfy_quant(files.original(tiny.t2v()))
    del stored[f"{QUERY}.{lost}"]
    assert f"lacks the weight or its scale: {QUERY}.weight" in refused(stored, tmp_path / "wan.safetensors")


@pytest.mark.parametrize("kept", ["others", "none"])
def test_a_scaled_file_that_lost_a_scale_is_refused(kept: str, tmp_path: Path) -> None:
    """Read with scale 1 it would be garbage."""
    stored, _ = files.fp8_scaled(files.original(tiny.t2v()))
    lost = [key for key in stored if key.endswith(".scale_weight") and (kept == "none" or key.startswith(QUERY))]
    left = {key: tensor for key, tensor in stored.items() if key not in lost}
    assert "lacks the weight or its scale: " in (words := refused(left, tmp_path / "wan.safetensors"))
    assert kept == "none" or f"{QUERY}.weight" in words


def test_a_broken_quantisation_header_is_refused(tmp_path: Path) -> None:
    for text in ("{", '{"layers": [1]}'):
        words = refused(files.original(tiny.t2v()), tmp_path / "wan.safetensors", {"_quantization_metadata": text})
        assert "metadata `_quantization_metadata`" in words
    strange = {"_quantization_metadata": json.dumps({"layers": {QUERY: 1}})}
    assert "is quantised as 1" in refused(files.original(tiny.t2v()), tmp_path / "strange.safetensors", strange)
