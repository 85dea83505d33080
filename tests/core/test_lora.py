"""A LoRA changes the network by exactly its matrices, whoever wrote the file, and leaves no trace when it is removed."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from lora_files import FORMATS, assert_computes_as, flat, merged, products, written
from torch import Tensor

from fastvideo_core.errors import LoadError, RequestError
from fastvideo_core.wan.loading import apply_lora, group_offload, load_transformer, remove_loras
from fastvideo_core.wan.loading.keys import diffusers_key


@pytest.mark.parametrize(
    ("style", "alpha"), [*((style, None) for style in FORMATS), ("musubi", 2.0), ("ComfyUI, down and up", 6.0)]
)
def test_every_trainers_file_adds_its_matrices(style: str, alpha: float | None, tmp_path: Path) -> None:
    plain = tiny.i2v_clip()
    pairs = files.pairs(plain)
    path = files.save(written(pairs, style, alpha), tmp_path / "style.safetensors", None)
    network = copy.deepcopy(plain)
    report = apply_lora(network, path, 0.8)
    assert_computes_as(network, merged(plain, products(pairs, 0.8 * (1.0 if alpha is None else alpha / 4))), plain)
    assert (report.name, report.strength, report.ignored) == ("style", 0.8, {})
    assert set(report.layers) == {diffusers_key(name) for name in pairs}


def test_differences_of_norms_biases_and_modulation_are_applied(tmp_path: Path) -> None:
    plain = tiny.i2v_clip()
    lora = files.lightx2v_lora(plain)
    modulation = {key: 0.3 * tiny.normal(tuple(t.shape), 5) for key, t in files.original(plain).items() if "modulation" in key}
    lora |= {f"diffusion_model.{key.removesuffix('modulation')}diff_m": change for key, change in modulation.items()}
    changes = products(files.pairs(plain), 0.5) | {key: 0.5 * change for key, change in modulation.items()}
    for key, change in lora.items():
        name, _, end = key.removeprefix("diffusion_model.").rpartition(".")
        if end in ("diff", "diff_b"):
            changes[f"{name}.{'bias' if end == 'diff_b' else 'weight'}"] = 0.5 * change
    network = copy.deepcopy(plain)
    report = apply_lora(network, files.save(lora, tmp_path / "lightx2v.safetensors", None), 0.5)
    assert_computes_as(network, merged(plain, changes), plain)
    assert not report.ignored
    assert changes.keys() == files.original(plain).keys(), "every parameter of the network was changed"


def test_a_pair_for_the_patch_embedding_is_applied(tmp_path: Path) -> None:
    plain = tiny.t2v()
    down, up = files.low_rank((24, 16, 1, 2, 2), 7)
    lora = {"diffusion_model.patch_embedding.lora_down.weight": down.reshape(4, 16, 1, 2, 2)}
    lora["diffusion_model.patch_embedding.lora_up.weight"] = up.reshape(24, 4, 1, 1, 1)
    network = copy.deepcopy(plain)
    apply_lora(network, files.save(lora, tmp_path / "lora.safetensors", None))
    assert_computes_as(network, merged(plain, products({"patch_embedding": (down, up)}, 1.0)), plain)


@pytest.mark.parametrize("lora_alpha", [4, 12])
def test_diffusers_and_peft_agree_on_their_own_file(lora_alpha: int, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft (optional) writes and reads the reference")
    reference = tiny.i2v_clip()
    plain = copy.deepcopy(reference)
    reference.add_adapter(peft.LoraConfig(r=4, lora_alpha=lora_alpha, target_modules=["to_q", "to_k", "to_out.0", "net.2"]))
    for i, (name, parameter) in enumerate(reference.named_parameters()):
        if "lora_B" in name:
            parameter.data.copy_(tiny.normal(tuple(parameter.shape), i))
    reference.save_lora_adapter(tmp_path)
    network = copy.deepcopy(plain)
    apply_lora(network, tmp_path / "pytorch_lora_weights.safetensors")
    assert_computes_as(network, reference, plain)


def test_rank_stabilised_loras_are_scaled_by_the_root_of_the_rank(tmp_path: Path) -> None:
    plain = tiny.t2v()
    pairs = files.pairs(plain)
    told = {"transformer.lora_alpha": 3.0, "transformer.use_rslora": True, "transformer.alpha_pattern": {"to_q": 1.0}}
    metadata = {"lora_adapter_metadata": json.dumps(told)}
    network = copy.deepcopy(plain)
    apply_lora(network, files.save(written(pairs, "diffusers"), tmp_path / "lora.safetensors", metadata))
    queries = {name: pair for name, pair in pairs.items() if name.endswith(".q")}
    assert_computes_as(network, merged(plain, products(pairs, 1.5) | products(queries, 0.5)), plain)


def test_loras_add_up_and_come_off_without_a_trace(tmp_path: Path) -> None:
    plain = tiny.i2v_clip()
    pairs = files.pairs(plain)
    first = files.save(files.lightx2v_lora(plain), tmp_path / "first.safetensors", None)
    second = files.save(written(pairs, "musubi"), tmp_path / "second.safetensors", None)
    network = copy.deepcopy(plain)
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in network.state_dict().items()}
    apply_lora(network, second, 0.25)
    apply_lora(network, first, 0.5)
    apply_lora(network, second, 0.5)
    once = copy.deepcopy(plain)
    apply_lora(once, first, 0.5)
    apply_lora(once, second, 0.75)
    assert_computes_as(network, once, plain)
    remove_loras(network)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) and after[name].data_ptr() == place for name, (tensor, place) in before.items())
    assert torch.equal(files.velocity(network), files.velocity(plain))
    assert [type(module) for module in network.modules()] == [type(module) for module in plain.modules()]
    assert dict(network.named_buffers()).keys() == dict(plain.named_buffers()).keys()


def test_strength_zero_is_the_plain_network(tmp_path: Path) -> None:
    network = tiny.t2v()
    plain = files.velocity(network)
    apply_lora(network, files.save(files.lightx2v_lora(network), tmp_path / "lora.safetensors", None), 0.0)
    assert torch.equal(files.velocity(network), plain)


def test_bfloat16_networks_stay_bfloat16_and_close_to_the_merged_ones(tmp_path: Path) -> None:
    plain = tiny.t2v()
    path = files.save(files.original(plain), tmp_path / "wan.safetensors")
    lora = files.save(files.lightx2v_lora(plain), tmp_path / "lora.safetensors", None)
    exact, network = load_transformer(path), load_transformer(path, torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    for each in (exact, network):
        apply_lora(each, lora, 0.5)
    assert tiny.relative_error(files.velocity(network), files.velocity(exact)) < 0.02
    remove_loras(network)
    assert {name: tensor.dtype for name, tensor in network.state_dict().items()} == dtypes


def test_a_text_to_video_lora_fits_image_to_video_but_for_the_patch_embedding(tmp_path: Path) -> None:
    lora = files.save(files.lightx2v_lora(tiny.t2v()), tmp_path / "lora.safetensors", None)
    report = apply_lora(tiny.i2v(), lora)
    assert set(report.ignored) == {"diffusion_model.patch_embedding.diff"}
    assert "another number of channels" in report.ignored["diffusion_model.patch_embedding.diff"]
    assert "patch_embedding" in report.layers, "its bias fits"


def test_the_image_branch_of_a_lora_is_reported_where_the_network_has_none(tmp_path: Path) -> None:
    pairs = files.pairs(tiny.i2v_clip())
    tensors = written(pairs, "ComfyUI") | {"lora_te1_encoder.lora_up.weight": torch.ones(1)}
    report = apply_lora(tiny.i2v(), files.save(tensors, tmp_path / "lora.safetensors", None), name="mine")
    image = [name for name in pairs if "_img" in name or "img_emb" in name]
    assert report.name == "mine" and len(report.ignored) == 2 * len(image) + 1
    assert "CLIP image branch" in report.ignored[f"diffusion_model.{image[0]}.lora_A.weight"]
    assert "text encoder" in report.ignored["lora_te1_encoder.lora_up.weight"]


def refused(tensors: Mapping[str, Tensor], tmp_path: Path, metadata: dict[str, str] | None = None) -> str:
    """What is said about a LoRA file; the network must be as before."""
    network = tiny.t2v()
    plain = files.velocity(network)
    with pytest.raises(LoadError) as caught:
        apply_lora(network, files.save(tensors, tmp_path / "lora.safetensors", metadata))
    assert torch.equal(files.velocity(network), plain)
    assert [type(module) for module in network.modules()] == [type(module) for module in tiny.t2v().modules()]
    return str(caught.value)


def test_a_lora_for_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    large = {"diffusion_model.blocks.0.self_attn.q": files.low_rank((5120, 5120), 1)}
    words = refused(written(large, "DiffSynth"), tmp_path)
    assert "blocks.0.attn1.to_q.weight: (5120, 4) @ (4, 5120) for a weight of (24, 24)" in words
    assert "made for a network 5120 wide (14B); this one is 24 wide. Use the LoRA made for this size." in words


def test_a_lora_of_the_right_width_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wide = {"blocks.0.ffn.0": files.low_rank((50, 24), 1)}
    assert "It was made for another model: use one made for this one." in refused(written(wide, "DiffSynth"), tmp_path)
    words = refused({"diffusion_model.blocks.0.norm3.diff": torch.ones(7)}, tmp_path)
    assert "blocks.0.norm2.weight: (7,) for a weight of (24,)" in words
    assert "(7,) for a bias of (24,)" in refused({"diffusion_model.blocks.0.ffn.2.diff_b": torch.ones(7)}, tmp_path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "It looks like a LoRA"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "It looks like a LoRA"),
        (["model.diffusion_model.vae.weight"], "It is no LoRA for Wan"),
    ],
)
def test_a_file_of_which_nothing_fits_is_refused(keys: list[str], words: str, tmp_path: Path) -> None:
    said = refused({key: torch.ones(2, 2) for key in keys}, tmp_path)
    assert "Nothing in" in said and words in said and keys[0] in said


def test_a_whole_model_is_no_lora(tmp_path: Path) -> None:
    assert "fits this transformer. It is no LoRA for Wan" in refused(files.original(tiny.t2v()), tmp_path)


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    tensors = written(files.pairs(tiny.t2v()), "ComfyUI")
    del tensors["diffusion_model.blocks.0.self_attn.q.lora_B.weight"]
    assert "has only half of what it needs for blocks.0.attn1.to_q.weight" in refused(tensors, tmp_path)


def test_an_alpha_without_matrices_is_left_out_and_told(tmp_path: Path) -> None:
    """Tools that take blocks out of a LoRA leave it there."""
    plain, alone = tiny.t2v(), {"diffusion_model.blocks.1.ffn.0.alpha": torch.tensor(4.0)}
    pairs = {"blocks.0.self_attn.q": files.pairs(plain)["blocks.0.self_attn.q"]}
    network = copy.deepcopy(plain)
    report = apply_lora(network, files.save(written(pairs, "ComfyUI") | alone, tmp_path / "lora.safetensors", None))
    assert report.ignored == {"diffusion_model.blocks.1.ffn.0.alpha": "it is an alpha without matrices, which changes nothing"}
    assert tiny.relative_error(files.velocity(network), files.velocity(merged(plain, products(pairs, 1.0)))) < 2e-6
    assert "Nothing in" in refused(alone, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.float64, torch.float16])
def test_alpha_of_any_dtype_and_a_counter_beside_it(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = tiny.t2v()
    pairs = files.pairs(plain)
    tensors = written(pairs, "musubi") | {f"lora_unet_{flat(name)}.alpha": torch.tensor(2, dtype=dtype) for name in pairs}
    network = copy.deepcopy(plain)
    report = apply_lora(network, files.save(tensors | {"step": torch.tensor(1000)}, tmp_path / "lora.safetensors", None))
    assert_computes_as(network, merged(plain, products(pairs, 0.5)), plain)
    assert report.ignored == {"step": "not a part of a LoRA"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_matrices_of_wide_dtypes_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = tiny.t2v()
    pairs = {name: ((10 * down).round() / 10, up.round()) for name, (down, up) in files.pairs(plain).items()}
    tensors = {key: value.to(dtype) if "lora_B" in key else value for key, value in written(pairs, "ComfyUI").items()}
    network = copy.deepcopy(plain)
    apply_lora(network, files.save(tensors, tmp_path / "lora.safetensors", None))
    assert_computes_as(network, merged(plain, products(pairs, 1.0)), plain)


@pytest.mark.parametrize(
    ("end", "kind"),
    [("dora_scale", "DoRA"), ("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("lora_mid.weight", "LoCon"), ("set_weight", "control")],
)
def test_other_kinds_of_adapter_are_refused_by_name(end: str, kind: str, tmp_path: Path) -> None:
    tensors = written(files.pairs(tiny.t2v()), "musubi") | {f"lora_unet_blocks_0_self_attn_q.{end}": torch.ones(2, 2)}
    assert kind in (words := refused(tensors, tmp_path)) and "Merge it into a model file" in words


def test_a_dora_told_in_the_header_is_refused(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    assert "is a DoRA" in refused(written(files.pairs(tiny.t2v()), "diffusers"), tmp_path, metadata)


def test_a_quantised_lora_is_refused(tmp_path: Path) -> None:
    tensors = {key: tensor.to(torch.int8) for key, tensor in written(files.pairs(tiny.t2v()), "ComfyUI").items()}
    assert "is quantised" in refused(tensors, tmp_path)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(strength: float, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"The LoRA's strength is {strength}: it must be a finite number"):
        apply_lora(tiny.t2v(), tmp_path / "lora.safetensors", strength)


def test_a_missing_lora_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"lora\.safetensors does not exist"):
        apply_lora(tiny.t2v(), tmp_path / "lora.safetensors")


def test_loras_work_under_group_offloading_and_must_come_first(tmp_path: Path) -> None:
    network = tiny.i2v_clip()
    lora = files.save(files.lightx2v_lora(network), tmp_path / "lora.safetensors", None)
    apply_lora(network, lora, 0.5)
    expected = files.velocity(network)
    group_offload(network, torch.device("cpu"), 1)
    assert torch.equal(files.velocity_in_place(network), expected)
    with pytest.raises(RequestError, match="Apply LoRAs first, then offload"):
        apply_lora(network, lora)
    with pytest.raises(RequestError, match="Apply LoRAs first, then offload"):
        remove_loras(network)


def test_blocks_with_a_lora_compile_as_one_graph(tmp_path: Path) -> None:
    network = tiny.t2v()
    apply_lora(network, files.save(files.lightx2v_lora(network), tmp_path / "lora.safetensors", None), 0.5)
    expected = files.velocity_in_place(network)
    network.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.equal(files.velocity_in_place(network), expected)
