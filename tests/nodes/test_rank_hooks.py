"""Core's real networks on four ranks, each with its own rows: what they give is what the networks give whole."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from caching import module_of
from named_case import named_case
from rank_group import RankGroup
from safetensors.torch import save_file
from tiny_wan import KINDS, metadata, random_weights, save_lora

from fastvideo_core import RequestError
from fastvideo_core.parallel import Layout

HALVES, TOGETHER = Layout(2, 2), Layout(1, 4)


@pytest.fixture(scope="module")
def ranks(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    group = RankGroup(tmp_path_factory.mktemp("ranks"), ["named_case", "native_ranks"])
    for seed, name in enumerate(("high", "low")):
        save_file(random_weights("t2v", seed, layers=3), group.folder / f"{name}.safetensors", metadata(heads=4))
    save_lora(group.folder)
    yield group
    group.close()


def run(ranks: RankGroup, layout: Layout, case: str, *given: Any) -> list[Any]:
    return ranks.run(layout, named_case, case, *given)


@pytest.mark.parametrize("kind", KINDS)
def test_each_plain_kind_is_equal_on_two_and_four_ranks(ranks: RankGroup, kind: str) -> None:
    """Of 48 tokens and of 27, which do not divide. In float64 the latter differ by a rounding: BLAS computes a row otherwise
    among 14 than among 27."""
    for found in run(ranks, HALVES, "kind_case", kind):
        assert len(found) == 6 and set(found.values()) == {0.0}, found


def test_frames_that_a_node_puts_behind_the_video_are_shared_as_well(ranks: RankGroup) -> None:
    assert run(ranks, TOGETHER, "frames_beside_case") == [0.0] * 4


def test_another_packs_block_hook_sees_own_rows_once(ranks: RankGroup) -> None:
    """It lets its block run twice, and both times self-attention is over all ranks' rows."""
    found = run(ranks, TOGETHER, "hook_case")
    assert [each["rows"] for each in found] == [[[rows, rows]] for rows in (7, 7, 7, 6)]
    assert [each["difference"] for each in found] == [0.0] * 4


@pytest.mark.parametrize("layout", [HALVES, TOGETHER], ids=Layout.text)
def test_two_experts_and_a_lora_are_core_s_own_networks(ranks: RankGroup, layout: Layout) -> None:
    """Calls with both branches and with one. Where halves have a branch each, the first rank of each gives its own."""
    found = run(ranks, layout, "files_case", ranks.folder)
    assert found[0]["kinds"] == ["WAN21_T2V", "WAN21_T2V"]
    for rank, each in enumerate(found):
        gives = [0.0 if rank % layout.ulysses == 0 else None, 0.0 if rank == 0 else None]
        assert each["differences"] == gives * 5, rank
        assert (each["opened"], each["held"], each["copies"]) == (5, [1, 0], 0), "one at a time, and never two of it"


@pytest.mark.parametrize("layout", [HALVES, TOGETHER], ids=Layout.text)
@pytest.mark.parametrize("cache", ["magcache", "dbcache"])
def test_step_caches_decide_alike_on_all_ranks_as_one_does(ranks: RankGroup, layout: Layout, cache: str) -> None:
    """Halves compute a branch by itself, which in a batch of two rounds otherwise."""
    found = run(ranks, layout, "cache_case", ranks.folder, cache)
    plans = {each["plan"] for each in found}
    assert len(plans) == 1 and "s" in plans.pop()
    for rank, each in enumerate(found):
        assert each["same"], "decisions, and what ran"
        differences = [found for found in each["differences"] if found is not None]
        assert len(differences) == (8 if rank % layout.ulysses == 0 else 0)
        assert max(differences, default=0.0) <= (1e-5 if layout.cfg == 2 else 0.0)
        own, whole = each["bytes"]
        assert own * layout.ranks <= whole * (1 + layout.ulysses / 27), "its share of the rows, and one row more"


def test_a_stop_ends_a_call_on_all_ranks_and_the_next_one_is_whole(ranks: RankGroup) -> None:
    assert run(ranks, TOGETHER, "stop_case", ranks.folder) == [("StoppedError", 0.0)] + [("StoppedError", None)] * 3


def test_other_wan_networks_are_refused_by_name(comfy: Any) -> None:
    """Of shapes alone, as core makes them of a file."""
    from comfy import supported_models

    others = ["WAN21_Vace", "WAN21_Camera", "WAN22_S2V", "WAN22_Animate", "WAN21_HuMo", "WAN21_CausalAR_T2V"]
    check = module_of(comfy, "native.facts").check_shareable
    check(shapes_of("WAN21_T2V"), "t2v.safetensors")
    for name in [name for name in others if hasattr(supported_models, name)]:
        model = shapes_of(name)
        kind = rf"{type(model.model).__name__} \({type(model.model.diffusion_model).__name__}\)"
        with pytest.raises(RequestError, match=f"other.safetensors holds a {kind}, which puts other tokens"):
            check(model, "other.safetensors")


def shapes_of(name: str) -> Any:
    from comfy import supported_models
    from comfy.model_patcher import ModelPatcher

    config_class = getattr(supported_models, name)
    sizes = {"dim": 64, "ffn_dim": 128, "num_heads": 4, "num_layers": 2, "text_dim": 32}
    config = config_class({**config_class.unet_config, **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("meta"))
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
