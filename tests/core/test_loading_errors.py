"""Files that cannot become the network that was asked for say what they are and what to do."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from torch import Tensor

from fastvideo_core.errors import LoadError
from fastvideo_core.wan.loading import load_transformer


def refused(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        load_transformer(path)
    return str(caught.value)


def with_keys(tmp_path: Path, *keys: str) -> str:
    """What is said about a T2V file that has these keys beside its own."""
    extra = {key: torch.ones(2) for key in keys}
    return refused(files.save(files.original(tiny.t2v()) | extra, tmp_path / "wan.safetensors"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "wan.safetensors").endswith("does not exist. Check the name, or download the file to that place.")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickles_are_refused_and_never_opened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wan{suffix}"
    torch.save({"weight": Explodes()}, path)
    assert "is a PyTorch pickle" in (words := refused(path)) and "Use the model's .safetensors file" in words


def test_a_pickle_under_another_name_is_refused_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    torch.save({"weight": Explodes()}, path)
    assert "It is a PyTorch pickle (zip)" in refused(path)


class Explodes:
    """Raises in whoever unpickles it."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return RuntimeError, ("unpickled",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGUF\x03\x00\x00\x00", "It is a GGUF file."),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "It is a web page"),
        (b"", "broken or cut off at 0 bytes: download it again"),
    ],
)
def test_a_file_of_other_content_says_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    path.write_bytes(content)
    assert words in refused(path)


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_file_says_so(kept: float, tmp_path: Path) -> None:
    path = files.save(files.original(tiny.t2v()), tmp_path / "wan.safetensors")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert "is not a whole safetensors file" in (words := refused(path)) and "download it again" in words


@pytest.mark.parametrize("length", [b"\x80\x02", b"<\x01"])
def test_a_truncated_file_is_called_so_whatever_the_length_of_its_header(length: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    path.write_bytes(length.ljust(8, b"\0") + b'{"blocks.0.ffn.0.weight":{"dtype":"F16"')
    assert "It is broken or cut off at" in refused(path)


@pytest.mark.parametrize(
    ("name", "words"), [("wan.gguf", "GGUF"), ("wan.txt", "no .safetensors file"), ("wan", "no .safetensors")]
)
def test_a_file_of_another_suffix_is_refused(name: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"text")
    assert words in refused(path)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("vace_patch_embedding.weight", "a VACE model"),
        ("vace_blocks.0.before_proj.weight", "a VACE model"),
        ("control_adapter.conv.weight", "a camera control model"),
        ("casual_audio_encoder.encoder.final_linear.weight", "an S2V"),
        ("audio_proj.audio_proj_glob_1.layer.bias", "a HuMo"),
        ("face_adapter.fuser_blocks.0.k_norm.weight", "an Animate model"),
        ("patch_embedding_pose.weight", "a pose-driven model"),
        ("ref_conv.weight", "a Fun Control model with a reference image"),
        ("patch_embedding_global.weight", "a WanDancer model"),
    ],
)
def test_wan_models_with_more_inputs_are_named(key: str, kind: str, tmp_path: Path) -> None:
    words = with_keys(tmp_path, key)
    assert f"It looks like {kind}" in words and key in words


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA"),
        (["lora_unet_blocks_0_self_attn_q.lora_down.weight"], "a LoRA"),
        (["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], "a T5 or UMT5 text encoder"),
        (["token_embedding.weight", "blocks.0.attn.q.weight"], "a T5 or UMT5 text encoder"),
        (["vision_model.encoder.layers.0.mlp.fc1.weight"], "a CLIP vision encoder"),
        (["encoder.conv1.weight", "decoder.conv1.weight"], "a VAE"),
        (["decoder.up_blocks.0.resnets.0.conv1.weight"], "a VAE"),
        (["double_blocks.0.img_attn.qkv.weight"], "another transformer"),
        (["input_blocks.0.0.weight"], "a model of another family"),
    ],
)
def test_files_of_other_kinds_are_named(keys: list[str], kind: str, tmp_path: Path) -> None:
    path = files.save({key: torch.ones(2, 2) for key in keys}, tmp_path / "other.safetensors")
    assert f"It looks like {kind}" in refused(path)


def test_one_shard_of_several_is_named(tmp_path: Path) -> None:
    part = dict(list(files.original(tiny.t2v()).items())[-5:])
    path = files.save(part, tmp_path / "diffusion_pytorch_model-00002-of-00007.safetensors")
    assert "It is one shard of several: give the folder" in refused(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = files.original(tiny.t2v())
    del weights["blocks.1.norm3.weight"], weights["blocks.0.self_attn.q.bias"]
    words = refused(files.save(weights, tmp_path / "wan.safetensors"))
    assert "missing blocks.0.attn1.to_q.bias, blocks.1.norm2.weight" in words and "download it again" in words


def test_unexpected_weights_are_named(tmp_path: Path) -> None:
    assert "Keys without a place: blocks.0.norm2.weight." in with_keys(tmp_path, "blocks.0.norm2.weight")


def test_a_hole_in_the_blocks_is_named(tmp_path: Path) -> None:
    weights = {key.replace("blocks.1.", "blocks.2."): tensor for key, tensor in files.original(tiny.t2v()).items()}
    words = refused(files.save(weights, tmp_path / "wan.safetensors"))
    assert "missing blocks.1.attn1.norm_k.weight" in words and "more" in words


def test_weights_of_another_shape_than_config_json_says_are_named(tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    change_config(tmp_path, ffn_dim=40)
    words = refused(tmp_path)
    assert "blocks.0.ffn.net.0.proj.weight is (48, 24), not (40, 24)" in words and "belong to two models" in words


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"_class_name": "WanVACETransformer3DModel"},
            "holds a WanVACETransformer3DModel; a WanTransformer3DModel was asked for",
        ),
        ({"quantization_config": {"quant_method": "torchao"}}, "is quantised by {'quant_method': 'torchao'}"),
    ],
)
def test_folders_of_other_networks_are_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    assert words in refused(tmp_path)


def test_the_folder_of_a_whole_pipeline_points_to_its_transformers(tmp_path: Path) -> None:
    for part in ("transformer", "transformer_2"):
        tiny.t2v().save_pretrained(tmp_path / part)
    words = refused(tmp_path)
    assert words.endswith(f"Give {tmp_path / 'transformer'} or {tmp_path / 'transformer_2'}.")


def test_a_folder_without_weights_or_with_two_sets_is_refused(tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    (tmp_path / "second.safetensors").write_bytes(weights.read_bytes())
    assert "found: diffusion_pytorch_model.safetensors, second.safetensors" in refused(tmp_path)
    (tmp_path / "second.safetensors").unlink()
    weights.unlink()
    assert "found: none" in refused(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny.i2v_clip().save_pretrained(tmp_path, max_shard_size="30KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    assert f"lacks {lost.name}" in refused(tmp_path)


def test_shards_outside_the_folder_are_refused(tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": "../elsewhere.safetensors"}}))
    assert "no `weight_map` of file names beside it" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_json_is_named(text: str, tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert str(tmp_path / "config.json") in refused(tmp_path)
    weights: dict[str, Tensor] = files.original(tiny.t2v())
    assert "metadata `config`" in refused(files.save(weights, tmp_path / "wan.safetensors", {"config": text}))
