"""Every operation of a generation, by step, and whether it happens inside the transformer."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "_unique2", "masked_select", "lift_fresh"}
"""Operations that wait for the device, or (the last one) copy a number from the host to it."""


@dataclass
class StepOperations:
    """inside, outside: how often each operation ran in the transformer and around it, one counter per step. allocated: how many
    operations around it gave new memory."""

    inside: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    outside: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    allocated: list[int] = field(default_factory=lambda: [0])

    def next_step(self) -> None:
        self.inside.append(Counter())
        self.outside.append(Counter())
        self.allocated.append(0)


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: StepOperations) -> None:
        super().__init__()
        self.operations, self.depth = operations, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        (self.operations.inside if self.depth else self.operations.outside)[-1][name] += 1
        if not self.depth and new_memory(out, args):
            self.operations.allocated[-1] += 1
        return out


def new_memory(out: Any, arguments: Any) -> bool:
    held = {x.untyped_storage().data_ptr() for x in arguments if isinstance(x, Tensor)}
    return isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in held


@contextmanager
def recorded(*networks: nn.Module) -> Iterator[tuple[StepOperations, Callable[[], None]]]:
    """What happens inside, and a function to call after each step."""
    operations = StepOperations()
    recorder = _Recorder(operations)

    def deeper(*_: object) -> None:
        recorder.depth += 1

    def back(*_: object) -> None:
        recorder.depth -= 1

    hooks = [hook for network in networks for hook in (
        network.register_forward_pre_hook(deeper), network.register_forward_hook(back)
    )]  # fmt: skip
    try:
        with recorder:
            yield operations, operations.next_step
    finally:
        for hook in hooks:
            hook.remove()
