"""Group offloading changes where the weights are, not what the network computes."""

import pytest
import tiny
import tiny_transformer as files
import torch

from fastvideo_core.errors import RequestError
from fastvideo_core.wan.loading import group_offload

CPU = torch.device("cpu")


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
    with pytest.raises(RequestError, match=f"Groups of {blocks_per_group} blocks were asked for; a group is 1 block or more"):
        group_offload(tiny.t2v(), CPU, blocks_per_group)


def test_offloading_twice_is_refused() -> None:
    network = tiny.t2v()
    group_offload(network, CPU, 1)
    with pytest.raises(RequestError, match=r"is group-offloaded already\. Load it again"):
        group_offload(network, CPU, 2)
