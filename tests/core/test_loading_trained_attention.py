"""Weights of trained sparse attention are loaded under whatever name a file has them, and none is dropped."""

from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from torch import Tensor

from fastvideo_core.errors import LoadError
from fastvideo_core.wan.loading import load_transformer, original_keys, trained_with

GATES = ("blocks.{}.to_gate_compress", "blocks.{}.attn1.to_gate_compress", "blocks.{}.self_attn.to_gate_compress")
PROJECTIONS = ("blocks.{}.self_attn.attn_op.local_attn.proj_l", "blocks.{}.attn1.proj_l", "blocks.{}.self_attn.proj_l")
WIDTH, HEAD_DIM, BLOCKS = 24, 12, range(2)


def trained(pattern: str, width: int, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{pattern.format(i)}.weight": tiny.normal((width, width), 40 + i) for i in BLOCKS}
    return weights | ({f"{pattern.format(i)}.bias": tiny.normal((width,), 50 + i) for i in BLOCKS} if bias else {})


@pytest.mark.parametrize("pattern", GATES)
@pytest.mark.parametrize("names", ["diffusers", "original", "model.diffusion_model."])
def test_vsas_gate_is_beside_its_self_attention(pattern: str, names: str, tmp_path: Path) -> None:
    network, prefix = tiny.t2v(), "" if names in ("diffusers", "original") else names
    plain = network.state_dict() if names == "diffusers" else files.original(network, prefix)
    gate = {prefix + key: value for key, value in trained(pattern, WIDTH).items()}
    loaded = load_transformer(files.save(plain | gate, tmp_path / "fastwan.safetensors"))
    for i, block in enumerate(loaded.blocks):
        assert torch.equal(block.attn1.to_gate_compress.weight, tiny.normal((WIDTH, WIDTH), 40 + i))
        assert torch.equal(block.attn1.to_gate_compress.bias, tiny.normal((WIDTH,), 50 + i))
    assert trained_with(loaded) == ("VSA",)
    assert torch.equal(files.velocity(loaded), files.velocity(network)), "dense attention does not look at it"


@pytest.mark.parametrize("pattern", PROJECTIONS)
def test_slas_projection_stays_in_float32(pattern: str, tmp_path: Path) -> None:
    path = files.save(files.original(tiny.t2v()) | trained(pattern, HEAD_DIM), tmp_path / "turbowan.safetensors")
    loaded = load_transformer(path, torch.bfloat16)
    assert all(block.attn1.proj_l.weight.dtype == torch.float32 for block in loaded.blocks)
    assert torch.equal(loaded.blocks[1].attn1.proj_l.weight, tiny.normal((HEAD_DIM, HEAD_DIM), 41))
    assert trained_with(loaded) == ("SLA",)


def test_a_gate_takes_the_networks_dtype_and_may_lack_a_bias(tmp_path: Path) -> None:
    path = files.save(files.original(tiny.t2v()) | trained(GATES[0], WIDTH, bias=False), tmp_path / "fastwan.safetensors")
    loaded = load_transformer(path, torch.bfloat16)
    assert loaded.blocks[0].attn1.to_gate_compress.weight.dtype == torch.bfloat16
    assert loaded.blocks[0].attn1.to_gate_compress.bias is None


def test_a_scaled_fp8_gate_is_rescaled(tmp_path: Path) -> None:
    stored, meant = files.fp8_scaled(files.original(tiny.t2v()) | trained(GATES[2], WIDTH))
    loaded = load_transformer(files.save(stored, tmp_path / "fastwan.safetensors"), torch.float32)
    assert torch.equal(loaded.blocks[0].attn1.to_gate_compress.weight, meant["blocks.0.self_attn.to_gate_compress.weight"])


def test_a_network_without_such_weights_is_as_before(tmp_path: Path) -> None:
    loaded = load_transformer(files.save(files.original(tiny.t2v()), tmp_path / "wan.safetensors"))
    assert trained_with(loaded) == ()
    assert list(loaded.state_dict()) == list(tiny.t2v().state_dict())


def test_saving_and_loading_keeps_them(tmp_path: Path) -> None:
    gated = load_transformer(files.save(files.original(tiny.t2v()) | trained(GATES[0], WIDTH), tmp_path / "a.safetensors"))
    again = load_transformer(files.save(original_keys(gated.state_dict()), tmp_path / "b.safetensors"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in gated.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"blocks.1.to_gate_compress.weight": None}, r"missing blocks\.1\.attn1\.to_gate_compress\.weight"),
        ({"blocks.1.to_gate_compress.weight": torch.ones(3, 3)}, r"to_gate_compress\.weight is \(3, 3\), not \(24, 24\)"),
    ],
)
def test_an_incomplete_or_wrong_gate_is_refused(wrong: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    weights = files.original(tiny.t2v()) | trained(GATES[0], WIDTH) | wrong
    path = files.save({key: value for key, value in weights.items() if value is not None}, tmp_path / "fastwan.safetensors")
    with pytest.raises(LoadError, match=words):
        load_transformer(path)
