"""What a run computes."""

from collections import Counter
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .memory import Flash


class Flops(TorchDispatchMode):
    """Counts the products of what runs inside: at torch's operators, and in attention, which allocates what flash attention does.
    A multiplication and an addition are two; what goes value by value does not count. by_dtype: of the operators' and of
    attention's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.flash = Flash()
        self._operators: Counter[torch.dtype] = Counter()

    @property
    def by_dtype(self) -> Counter[torch.dtype]:
        return self._operators + self.flash.flops

    @property
    def total(self) -> int:
        return self.by_dtype.total()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, operator = function(*args, **kwargs), function.overloadpacket
        if operator is torch.ops.aten.linear:  # in inference mode it comes as it is
            self._operators[args[0].dtype] += 2 * args[0].numel() * args[1].shape[0]
        elif operator in flop_registry:
            self._operators[args[0].dtype] += flop_registry[operator](*args, **kwargs, out_val=out)
        return out

    def __enter__(self) -> "Flops":
        super().__enter__()
        self.flash.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flash.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)
