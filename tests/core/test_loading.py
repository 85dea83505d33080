"""A transformer comes out of every file format as it went in."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from fastvideo_core.errors import LoadError, RequestError
from fastvideo_core.wan.loading import load_transformer, open_checkpoint, original_keys
from fastvideo_core.wan.loading.quantised import StoredWeight

KINDS = pytest.mark.parametrize("kind", files.NETWORKS)


@KINDS
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "model.", "pipe.dit."])
def test_original_keys_with_any_prefix_give_the_same_network(kind: str, prefix: str, tmp_path: Path) -> None:
    network = files.NETWORKS[kind]()
    loaded = load_transformer(files.save(files.original(network, prefix), tmp_path / "wan.safetensors"))
    assert torch.equal(files.velocity(loaded), files.velocity(network))


@KINDS
@pytest.mark.parametrize("prefix", ["", "transformer.", "dit."])
def test_diffusers_keys_in_one_file_give_the_same_network(kind: str, prefix: str, tmp_path: Path) -> None:
    network = files.NETWORKS[kind]()
    weights = {prefix + key: value for key, value in network.state_dict().items()}
    loaded = load_transformer(files.save(weights, tmp_path / "wan.safetensors"))
    assert torch.equal(files.velocity(loaded), files.velocity(network))


def test_a_file_of_float64_computes_in_float32(tmp_path: Path) -> None:
    network = tiny.t2v()
    weights = {key: value.double() for key, value in files.original(network).items()}
    loaded = load_transformer(files.save(weights, tmp_path / "wan.safetensors"))
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(files.velocity(loaded), files.velocity(network))


def test_counters_of_training_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny.t2v()
    counters = {"step": torch.tensor(1000), "dit.num_updates": torch.tensor([7]), "global_step": torch.tensor(3.0)}
    path = files.save(files.original(network, "dit.") | counters, tmp_path / "wan.safetensors")
    assert torch.equal(files.velocity(load_transformer(path)), files.velocity(network))
    assert "dit.num_updates, global_step, step left out" in caplog.text


@KINDS
@pytest.mark.parametrize("shard", ["10GB", "30KB"])
def test_a_diffusers_folder_whole_or_sharded_gives_the_same_network(kind: str, shard: str, tmp_path: Path) -> None:
    network = files.NETWORKS[kind]()
    network.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "30KB")
    assert torch.equal(files.velocity(load_transformer(tmp_path)), files.velocity(network))


@KINDS
def test_original_keys_agree_with_diffusers_own_conversion(kind: str) -> None:
    weights = files.NETWORKS[kind]().state_dict()
    converted = convert_wan_transformer_to_diffusers(original_keys(weights))
    if kind == "flf2v":  # diffusers has no rule for the position embedding
        converted["condition_embedder.image_embedder.pos_embed"] = converted.pop("img_emb.emb_pos")
    assert converted.keys() == weights.keys()
    assert all(converted[key] is tensor for key, tensor in weights.items()), "a rename moves no value"


@KINDS
def test_the_configuration_is_read_from_the_shapes(kind: str, tmp_path: Path) -> None:
    network = files.NETWORKS[kind]()
    loaded = load_transformer(files.save(files.original(network), tmp_path / "wan.safetensors"))
    private = {"_class_name", "_diffusers_version", "_use_default_values", "_name_or_path"}
    differs = {key for key in network.config if network.config[key] != loaded.config[key]} - private
    assert differs == {"rope_max_seq_len"}, "which is no property of the weights: diffusers' 1024 instead of tiny's 64"


def test_heads_are_128_wide_when_the_file_does_not_say(tmp_path: Path) -> None:
    network = tiny.transformer(num_attention_heads=2, attention_head_dim=128, num_layers=1, in_channels=16, out_channels=16)
    loaded = load_transformer(files.save(files.original(network), tmp_path / "wan.safetensors", metadata=None))
    assert (loaded.config.num_attention_heads, loaded.config.attention_head_dim) == (2, 128)
    assert torch.equal(files.velocity(loaded), files.velocity(network))


def test_a_checkpoint_of_all_models_gives_its_transformer(tmp_path: Path) -> None:
    network = tiny.t2v()
    others = {"first_stage_model.decoder.conv1.weight": torch.ones(2), "cond_stage_model.shared.weight": torch.ones(2)}
    path = files.save(files.original(network, "model.diffusion_model.") | others, tmp_path / "all.safetensors")
    assert torch.equal(files.velocity(load_transformer(path)), files.velocity(network))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_dtypes_and_values_are_those_of_diffusers_loader(dtype: torch.dtype, stored: torch.dtype, tmp_path: Path) -> None:
    tiny.i2v_clip().to(stored).save_pretrained(tmp_path)
    reference = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=dtype).state_dict()
    loaded = load_transformer(tmp_path, dtype).state_dict()
    assert {key: tensor.dtype for key, tensor in loaded.items()} == {key: tensor.dtype for key, tensor in reference.items()}
    assert all(torch.equal(loaded[key], tensor) for key, tensor in reference.items())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_without_a_dtype_the_file_decides(stored: torch.dtype, tmp_path: Path) -> None:
    weights = {key: tensor.to(stored) for key, tensor in files.original(tiny.t2v()).items()}
    weights["patch_embedding.bias"] = weights["patch_embedding.bias"].float()  # files of mixed dtype exist
    loaded = load_transformer(files.save(weights, tmp_path / "wan.safetensors"))
    assert loaded.patch_embedding.weight.dtype == loaded.patch_embedding.bias.dtype == stored
    assert loaded.blocks[0].norm2.weight.dtype == loaded.blocks[0].scale_shift_table.dtype == torch.float32


def test_weights_that_need_no_conversion_stay_in_the_file(tmp_path: Path) -> None:
    path = files.save(files.original(tiny.t2v()), tmp_path / "wan.safetensors")
    weight = StoredWeight(open_checkpoint(path).tensors["head.head.weight"])
    assert weight.read(torch.float32).data_ptr() == weight.read(torch.float32).data_ptr(), "one mapping, no copies"
    assert weight.read(torch.bfloat16).data_ptr() != weight.read(torch.bfloat16).data_ptr()


def test_the_loaded_network_is_ready_to_sample(tmp_path: Path) -> None:
    loaded = load_transformer(files.save(files.original(tiny.t2v()), tmp_path / "wan.safetensors"))
    assert not loaded.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())
    assert not any(buffer.is_meta for buffer in loaded.buffers())


def test_query_norms_of_early_folders_are_left_out_as_diffusers_does(tmp_path: Path) -> None:
    network = tiny.i2v_clip()
    weights = network.state_dict() | {"blocks.0.attn2.norm_added_q.weight": torch.ones(24)}
    loaded = load_transformer(files.save(weights, tmp_path / "wan.safetensors"))
    assert torch.equal(files.velocity(loaded), files.velocity(network))


def test_a_dtype_that_nothing_computes_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"computes in float32, bfloat16 or float16, not torch\.float8_e4m3fn"):
        load_transformer(tmp_path, torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"num_heads": 5}, "24 wide cannot have 5 heads"),
        ({"num_heads": 2, "text_dim": 99}, "metadata say text_dim 99, its weights 16"),
        ({}, "24 wide cannot have 0 heads"),
    ],
)
def test_metadata_that_contradict_the_weights_are_refused(told: dict[str, int], words: str, tmp_path: Path) -> None:
    metadata = {"config": json.dumps({"transformer": told})}
    path = files.save(files.original(tiny.t2v()), tmp_path / "wan.safetensors", metadata)
    with pytest.raises(LoadError, match=words):
        load_transformer(path)


def test_original_keys_refuses_what_is_no_wan_weight() -> None:
    with pytest.raises(LoadError, match=r"Not a parameter of WanTransformer3DModel: blocks\.0\.nonsense"):
        original_keys({"blocks.0.nonsense": torch.ones(1)})
