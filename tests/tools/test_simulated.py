"""The GPU that is not there: real values beside it, none on it; what is allocated, computed and waited for is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from tools.bench.flops import flops_of_call
from tools.simulated import Allocated, Flops, Waits, simulated
from tools.simulated.checkpoints import TrueSize

HERE = Path(__file__).parent
MIB = 2**20


def test_values_are_real_on_the_cpu_and_none_on_the_gpu() -> None:
    with simulated():
        here = torch.arange(4).float()
        there = here.to("cuda")
        assert float(here.sum()) == 6 and (there * 2).device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            float(there.sum())
        with pytest.raises(RuntimeError, match="two different devices"):
            there + here
    assert not torch.cuda.is_available() or torch.cuda.device_count()


def test_weights_move_and_memory_is_counted() -> None:
    with simulated(memory=16 * MIB) as gpu:
        with gpu.valueless():
            layer = nn.Linear(1024, 1024, bias=False)  # 4 MiB
        kept = layer.weight
        layer.to("cuda")
        assert kept is layer.weight and kept.device.type == "cuda"
        assert torch.cuda.mem_get_info() == (12 * MIB, 16 * MIB)
        with torch.no_grad():
            out = layer(torch.zeros(256, 1024, device="cuda"))
        assert torch.cuda.memory_allocated() == 5 * MIB and torch.cuda.max_memory_allocated() == 6 * MIB
        layer.to("cpu")
        del out
        assert gpu.held.now == 0 and [copy.nbytes for copy in gpu.held.copies] == [4 * MIB, 4 * MIB]


def test_views_and_known_tensors_do_not_count() -> None:
    known = torch.zeros(MIB)
    with Allocated([known], "cpu") as counted:
        part = known[: MIB // 2]
        double = part * 2
    assert counted.now == double.nbytes


WAITING = {
    "_local_scalar_dense": lambda x: float(x.sum()),
    "nonzero": lambda x: x.nonzero(),
    "index": lambda x: x[x > 0],
    "cuda -> cpu": lambda x: x.cpu(),
    "cpu -> cuda": lambda x: torch.zeros(4).to(x.device),
    "synchronize": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("what", WAITING)
def test_what_waits_is_listed_with_its_place(what: str) -> None:
    with simulated(), Waits([HERE]) as waits, waits.synchronizing():
        x = torch.zeros(4, device="cuda")
        try:
            WAITING[what](x)
        except RuntimeError:
            assert what in ("_local_scalar_dense", "nonzero", "index")
        (found,) = waits.found
    assert found.what == what and found.where.startswith("tools/test_simulated.py:")


def test_what_does_not_wait_is_not_listed() -> None:
    with simulated(), Waits([HERE]) as waits, waits.synchronizing():
        x = torch.zeros(4, device="cuda")
        (x[:, None] * x)[torch.zeros(2, dtype=torch.int64, device="cuda")].sum()
        torch.zeros(4).pin_memory().to("cuda", non_blocking=True)
    assert waits.found == []


def test_a_value_is_what_stands_at_its_place() -> None:
    def place() -> float:
        return float(torch.zeros(4, device="cuda").sum())

    name = "tools/test_simulated.py:test_a_value_is_what_stands_at_its_place"
    with simulated(), Waits([HERE], {name: lambda value: 0.5}):
        assert place() == 0.5


@pytest.mark.parametrize("image_tokens", [0, 257])
def test_flops_are_those_of_the_closed_form(image_tokens: int) -> None:
    """Of one call of a network of true width; attention's are counted by `Flash`."""
    channels = (36, 16) if image_tokens else (16, 16)
    size = TrueSize(dim=1536, ffn_dim=8960, shape=(2, 16, 5, 16, 20), image_tokens=image_tokens, channels=channels)
    with simulated() as gpu:
        with gpu.valueless():
            network = size.network(torch.bfloat16, layers=2)
        network.to("cuda")
        with torch.no_grad(), Flops() as flops:
            call(network, size)
    expected = flops_of_call(network, size.shape, 512, image_tokens)
    assert flops.total == pytest.approx(expected, rel=1e-6)
    assert flops.by_dtype[torch.bfloat16] > 0.99 * expected


def call(network: Any, size: TrueSize) -> None:
    batch, channels = size.shape[0], size.channels[0]
    bfloat16 = {"device": "cuda", "dtype": torch.bfloat16}
    image = torch.zeros(batch, size.image_tokens, 1280, **bfloat16) if size.image_tokens else None
    network(
        hidden_states=torch.zeros(batch, channels, *size.shape[2:], **bfloat16),
        timestep=torch.zeros(batch, device="cuda"),
        encoder_hidden_states=torch.zeros(batch, 512, 4096, **bfloat16),
        encoder_hidden_states_image=image,
    )
