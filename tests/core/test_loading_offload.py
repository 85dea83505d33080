"""Group offloading changes where the weights are, not what the network computes."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers.models.activations import GELU
from tiny_model import model_of, small
from torch._subclasses.fake_tensor import FakeTensorMode

from fastvideo_core import SamplingRequest, plan
from fastvideo_core.errors import RequestError
from fastvideo_core.parallel import Layout, Mesh, Ranks
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import group_offload, load_transformer
from fastvideo_core.wan.ranked import RankExperts

CPU = torch.device("cpu")
(PHASE,) = plan((1.0, 0.0), 5.0).phases


@pytest.mark.parametrize("kind", files.NETWORKS)
@pytest.mark.parametrize("blocks_per_group", [1, 2, 5])
def test_an_offloaded_network_computes_the_same(kind: str, blocks_per_group: int) -> None:
    network = files.NETWORKS[kind]()
    expected = files.velocity_in_place(network)
    group_offload(network, CPU, blocks_per_group)
    assert torch.equal(files.velocity_in_place(network), expected)
    assert torch.equal(files.velocity_in_place(network), expected), "also the second time"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_blocks_visit_the_device_and_leave_it(blocks_per_group: int) -> None:
    network = tiny.t2v()
    expected = files.velocity_in_place(network.to("cuda"), "cuda")
    group_offload(network.to(CPU), torch.device("cuda"), blocks_per_group)
    assert torch.equal(files.velocity_in_place(network, "cuda"), expected)
    assert {parameter.device.type for parameter in network.blocks.parameters()} == {"cpu"}


@pytest.mark.parametrize("blocks_per_group", [0, -1])
def test_groups_without_blocks_are_refused(blocks_per_group: int) -> None:
    with pytest.raises(RequestError, match=f"blocks_per_group is {blocks_per_group}: a group is 1 block or more"):
        group_offload(tiny.t2v(), CPU, blocks_per_group)


def test_offloading_twice_is_refused() -> None:
    network = tiny.t2v()
    group_offload(network, CPU, 1)
    with pytest.raises(RequestError, match=r"is group-offloaded already\. Load it again"):
        group_offload(network, CPU, 2)


def test_layers_that_compute_on_a_gpu_are_not_exchanged_for_the_cpus_though_their_weights_wait_there() -> None:
    network = tiny.t2v()
    group_offload(network, "cuda", 2)
    experts = WanExperts({"single": network}, tiny.conditioning(), tiny.SHAPE, torch.device("cuda"), CPU, fold_text=False)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear | GELU)]
    kinds = [type(layer) for layer in layers]
    with FakeTensorMode(allow_non_fake_inputs=True), experts.loaded("single"), experts.active(PHASE):
        assert [type(layer) for layer in layers] == kinds
        assert {parameter.device.type for parameter in network.blocks.parameters()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_an_offloaded_model_generates_the_same_video(blocks_per_group: int, dtype: torch.dtype) -> None:
    def video(offloaded: bool) -> torch.Tensor:
        network, parts = tiny.t2v().to(dtype), model_of("t2v")
        model = replace(parts, transformers={"single": network}, device=torch.device("cuda"))
        if offloaded:
            group_offload(network, "cuda", blocks_per_group)
        size = small(model)
        request = SamplingRequest(steps=3, shift=5.0, guidance_scale=4.0)
        generation = model.generate(request, model.condition("a cat", "blurry", size), size)
        list(generation)
        return generation.latents

    assert tiny.relative_error(video(True), video(False)) < 1e-5


def test_offloading_to_another_device_than_the_models_is_refused() -> None:
    network = tiny.t2v()
    group_offload(network, "cuda:1", 2)
    for device in ("cpu", "cuda:0"):
        with pytest.raises(
            RequestError, match=rf"offloaded to cuda:1 and the generation was asked for on {device}.*Load the model"
        ):
            WanExperts({"single": network}, tiny.conditioning(), tiny.SHAPE, torch.device(device), CPU)
    WanExperts({"single": network}, tiny.conditioning(), tiny.SHAPE, torch.device("cuda"), CPU)


def test_what_a_rank_puts_aside_are_the_weights_that_it_had_before_and_no_copy(tmp_path: Path) -> None:
    """Each rank would have its own, of what all of them map from one file. Its device is one that nothing can be copied from."""
    path = files.save(files.NETWORKS["t2v"]().state_dict(), tmp_path / "t2v.safetensors")
    networks = {name: load_transformer(path) for name in ("high_noise", "low_noise")}
    one, places = Ranks(), {name: pointers(network) for name, network in networks.items()}
    rank = RankExperts(networks, Mesh(Layout(), one, one, one, one), torch.device("meta"), CPU)
    for name in ("high_noise", "low_noise", "high_noise"):
        rank.load(name)
        assert {weight.device.type for weight in networks[name].parameters()} == {"meta"}
    rank.offload()
    assert {name: pointers(network) for name, network in networks.items()} == places
    mapped = [each for each in psutil.Process().memory_maps(grouped=False) if each.path == str(path)]
    assert mapped and not any(each.private_dirty for each in mapped)


def pointers(network: torch.nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
