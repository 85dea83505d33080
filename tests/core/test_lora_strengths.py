"""LoRAs at other strengths for a time: as if applied so, and afterwards as if nothing had been."""

import copy
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from lora_cases import APPLIED, lora_of, network_of, saved, with_loras
from lora_files import FORMATS, written
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from fastvideo_core.errors import RequestError
from fastvideo_core.wan.fast_linears import fast_linears
from fastvideo_core.wan.linear import LinearAccount
from fastvideo_core.wan.loading import (
    apply_lora,
    before_loras,
    check_strengths,
    group_offload,
    remove_loras,
    strengths,
    tensors_of,
)
from fastvideo_core.wan.loading.lora_change import LowRank

DTYPES = [torch.float32, torch.bfloat16]


def weights(network: nn.Module) -> dict[str, Tensor]:
    """What the layers compute with."""
    return {name: attrgetter(name)(network) for name in before_loras(tensors_of(network))}


def kept(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Which objects the network holds, and in which memory their values are."""
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    return {name: (id(tensor), tensor.data_ptr()) for name, tensor in held.items()}


def scales(network: nn.Module) -> list[float]:
    return [module.scale for module in network.modules() if isinstance(module, LowRank)]


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "asked", [{"everything": 1.25}, {"more": 0.3}, {"pairs": 0}, {"more": 0.0, "everything": -1.0, "pairs": 1.0}, APPLIED, {}]
)
def test_inside_they_are_as_if_applied_so_and_afterwards_as_before(
    asked: dict[str, float], dtype: torch.dtype, tmp_path: Path
) -> None:
    network, expected = with_loras(tmp_path, APPLIED, dtype), with_loras(tmp_path, APPLIED | asked, dtype)
    before, scaled, values = kept(network), scales(network), copy.deepcopy(network.state_dict())
    for path in tmp_path.iterdir():
        path.unlink()  # no file is read again
    with strengths(network, asked):
        assert_same(weights(network), weights(expected))
        assert_same(tensors_of(network), tensors_of(expected))
        assert torch.equal(files.velocity(network), files.velocity(expected))
    assert (kept(network), scales(network)) == (before, scaled)
    assert_same(network.state_dict(), values)


@pytest.mark.parametrize("style", FORMATS)
def test_every_trainers_file_follows(style: str, tmp_path: Path) -> None:
    path = files.save(written(files.pairs(tiny.t2v()), style, 6.0), tmp_path / "style.safetensors", None)
    network, expected = tiny.t2v(), tiny.t2v()
    apply_lora(network, path, 0.8)
    apply_lora(expected, path, -0.4)
    with strengths(network, {"style": -0.4}):
        assert_same(weights(network), weights(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strength_zero_is_the_network_without_it(dtype: torch.dtype, tmp_path: Path) -> None:
    network, plain = with_loras(tmp_path, APPLIED, dtype), network_of(tmp_path, dtype)
    assert not torch.equal(files.velocity(network), files.velocity(plain))
    with strengths(network, dict.fromkeys(APPLIED, 0.0)):
        assert_same(weights(network), weights(plain))
        assert torch.equal(files.velocity(network), files.velocity(plain))


def test_what_is_stored_and_hashed_stays_as_it_is(tmp_path: Path) -> None:
    network, plain = with_loras(tmp_path, APPLIED), tiny.i2v_clip()
    buffers = {name for name, _ in network.named_buffers()}
    with strengths(network, {"everything": 2.0}):
        assert_same(before_loras(tensors_of(network)), plain.state_dict())
        assert {name for name, _ in network.named_buffers()} == buffers
    assert all(name.endswith(("_before_lora", ".down", ".up")) for name in buffers - dict(plain.named_buffers()).keys())
    remove_loras(network)
    assert_same(network.state_dict(), plain.state_dict())
    assert [vars(module).keys() for module in network.modules()] == [vars(module).keys() for module in plain.modules()]


def test_what_a_file_adds_is_kept_once_in_its_own_dtype_and_does_not_move(tmp_path: Path) -> None:
    network = with_loras(tmp_path, {"more": 1.0})
    network.to("meta")
    differences = [difference.values for module in network.modules() for difference in _differences(module)]
    given = load_file(tmp_path / "more.safetensors")
    assert {(difference.dtype, difference.device.type) for difference in differences} == {
        (torch.bfloat16, "cpu"),
        (torch.float32, "cpu"),  # the patch embedding's pair, multiplied
    }
    assert sum(difference.dtype == torch.bfloat16 for difference in differences) == sum(
        ".diff" in key or ".bias" in key for key in given
    )


def _differences(module: nn.Module) -> list[object]:
    from fastvideo_core.wan.loading.lora_change import differences_of

    return [difference for differences in differences_of(module).values() for difference in differences]


def test_they_are_undone_on_interrupt(tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    before, scaled = kept(network), scales(network)
    with pytest.raises(KeyboardInterrupt), strengths(network, dict.fromkeys(APPLIED, 2.0)):
        raise KeyboardInterrupt
    assert (kept(network), scales(network)) == (before, scaled)


def test_they_are_undone_where_the_last_one_fails(tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    del network.proj_out.bias_before_lora  # of the network's last layer: all others have changed by then
    before, scaled = kept(network), scales(network)
    with pytest.raises(AttributeError, match="bias_before_lora"), strengths(network, dict.fromkeys(APPLIED, 2.0)):
        pytest.fail("nothing may run")
    assert (kept(network), scales(network)) == (before, scaled)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"other": 1.0}, "LoRA 'other' was to act at strength 1, and it is not applied; applied: 'everything', 'pairs', 'more'"),
        ({"everything": float("nan")}, "The strength of LoRA 'everything' is nan: it must be a finite number"),
        ({"everything": float("inf")}, "The strength of LoRA 'everything' is inf: it must be a finite number"),
        ({"everything": "1"}, "The strength of LoRA 'everything' is '1': it must be a finite number"),
        ({"everything": True}, "The strength of LoRA 'everything' is True: it must be a finite number"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_changes(asked: dict[str, float], words: str, tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    before, scaled = kept(network), scales(network)
    for refusing in (check_strengths, lambda *given: strengths(*given).__enter__()):
        with pytest.raises(RequestError, match=words):
            refusing(network, {"pairs": 3.0} | asked)
        assert (kept(network), scales(network)) == (before, scaled)


def test_two_loras_of_one_name_are_ambiguous_until_one_has_another(tmp_path: Path) -> None:
    network, path = tiny.i2v_clip(), saved("pairs", tmp_path)
    for name in (None, None, "again"):
        apply_lora(network, path, 0.5, name)
    with pytest.raises(RequestError, match=r"'pairs' was to act at strength 1, and 2 applied ones have that name.*name="):
        check_strengths(network, {"pairs": 1.0})
    check_strengths(network, {"again": 1.0})


def test_without_loras_none_can_be_named() -> None:
    with pytest.raises(RequestError, match="it is not applied; applied: none"):
        check_strengths(tiny.t2v(), {"mine": 1.0})
    check_strengths(tiny.t2v(), {})


@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_under_group_offloading_linear_layers_follow_and_fixed_places_are_refused(blocks_per_group: int, tmp_path: Path) -> None:
    network = with_loras(tmp_path, APPLIED)
    group_offload(network, torch.device("cpu"), blocks_per_group)
    with strengths(network, {"pairs": -1.0}):
        expected = files.velocity(with_loras(tmp_path, APPLIED | {"pairs": -1.0}))
        assert torch.equal(files.velocity_in_place(network), expected)
    assert torch.equal(files.velocity_in_place(network), files.velocity(with_loras(tmp_path, APPLIED)))
    check_strengths(network, APPLIED)
    with pytest.raises(RequestError, match=r"group-offloaded, where only weights of linear layers can follow.*scale_shift_table"):
        check_strengths(network, {"more": 0.5})


def test_compiled_blocks_follow_and_each_strength_is_compiled_once(tmp_path: Path) -> None:
    """By AOTAutograd's graphs, which are what torch's own backend makes code of."""

    def applied(strength: float) -> WanTransformer3DModel:
        network = tiny.transformer(in_channels=16, out_channels=16, num_layers=1)
        apply_lora(network, files.save(files.lightx2v_lora(network), tmp_path / "lora.safetensors", None), strength)
        return network

    torch.compiler.reset()
    network = applied(0.5)
    network.compile_repeated_blocks(fullgraph=True, backend="aot_eager", dynamic=False)
    graphs = counters["stats"]["unique_graphs"]
    for strength in (0.5, -1.0, 0.0, 0.5, -1.0):
        with strengths(network, {"lora": strength}):
            assert tiny.relative_error(files.velocity_in_place(network), files.velocity(applied(strength))) < 1e-5
    assert counters["stats"]["unique_graphs"] - graphs == 3
    torch.compiler.reset()


def test_layers_that_are_computed_by_what_is_fastest_follow(tmp_path: Path) -> None:
    network, x = with_loras(tmp_path, {"everything": 0.5, "more": 0.5}), tiny.normal((2, 9, 24), 1)
    biases = files.save(
        {key: tensor for key, tensor in lora_of("everything").items() if key.endswith("ffn.0.diff_b")},
        tmp_path / "biases.safetensors",
        None,
    )
    plain = tiny.i2v_clip()  # whose layers stay plain: they alone are computed by what is fastest
    apply_lora(plain, biases, 1.0)
    for each, asked in ((network, {"everything": 2.0}), (plain, {"biases": -2.0})):
        with strengths(each, asked), torch.no_grad():
            expected = each.blocks[0].ffn(x)
            with fast_linears(each, account := LinearAccount()):
                assert tiny.relative_error(each.blocks[0].ffn(x), expected) < 1e-6
            assert bool(account.ways) == (each is plain)
        with torch.no_grad():
            assert tiny.relative_error(each.blocks[0].ffn(x), expected) > 1e-3
