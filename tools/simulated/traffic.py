"""What operators read and write."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

OVERWRITE = ("copy_", "fill_", "zero_")
"""What does not read the tensor that it writes."""
UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


class Traffic(TorchDispatchMode):
    """Bytes between a GPU's memory and its processors, where each operator reads and writes all of its tensors by itself, as
    torch runs them when nothing is compiled. products: of operators that multiply matrices, their weights included; values: of
    those that go value by value. Attention (see `Flash`), views and copies between devices do not count."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device, self.products, self.values = device, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, operator = function(*args, **kwargs), function.overloadpacket
        if operator.__name__ in UNWRITTEN:
            return out
        moved = self._moved(function, list(_tensors((args, kwargs))), list(_tensors(out)))
        if operator in flop_registry or operator is torch.ops.aten.linear:
            self.products += moved
        else:
            self.values += moved
        return out

    def _moved(self, function: Any, given: list[Tensor], made: list[Tensor]) -> int:
        shared = [each for each in given if each.dim()]  # numbers come from the host with the call
        if not made or any(each.device.type != self.device for each in (*shared, *made)):
            return 0
        if not function._schema.is_mutable and {_storage(each) for each in made} & {_storage(each) for each in given}:
            return 0
        read = given[1:] if function.overloadpacket.__name__ in OVERWRITE else given
        return sum(map(own_bytes, (*read, *made)))


def own_bytes(tensor: Tensor) -> int:
    """Of the values that it has; those that are repeated along a dimension are there once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return math.prod(sizes) * tensor.itemsize


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (each for each in tree_iter(tree) if isinstance(each, Tensor))
