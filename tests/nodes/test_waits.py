"""How often a generation waits for the device: what FastVideo Sampler knows is not read from it."""

from functools import partial
from typing import Any

import pytest
import torch
from caching import cached, put_table
from sampling import core_node, run_ksampler, run_node
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.usefixtures("direct")


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket in (torch.ops.aten.item, torch.ops.aten._local_scalar_dense)
        return function(*args, **(kwargs or {}))


def waits_of(run: Any, model: Any, **inputs: Any) -> int:
    with Waits() as waits:
        run(model, **inputs)
    return waits.count


def sparse(host: Any, model: Any) -> Any:
    return core_node(
        host, "FastVideoSparseAttention", model=model, enabled=True, variant={"variant": "VSA", "sparsity": 0.5}, dense_steps=99,
        dense_layers=0, kernel="gather", trained_weights="none",
    )  # fmt: skip


@pytest.mark.parametrize("node", [cached, sparse])
@pytest.mark.parametrize("guidance_mode", ["batched", "sequential"])
def test_nodes_on_the_model_do_not_ask_the_device_for_the_noise_level(
    comfy: Any, load_wan: Any, node: Any, guidance_mode: str
) -> None:
    put_table(comfy, load_wan())
    with_node = node(comfy, load_wan())
    sampler = partial(run_node, comfy)
    plain, ours = (waits_of(sampler, model, guidance_mode=guidance_mode) for model in (load_wan(), with_node))
    per_call = waits_of(run_ksampler, with_node) - waits_of(run_ksampler, load_wan())
    assert per_call >= 8  # under core's samplers it is all that tells the step
    assert ours - plain < 8
