"""What operations on a GPU allocate, and what is copied to and from it."""

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch._dynamo  # a mode imports it in its first operation, where it cannot be imported: that is made of operations
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter


class Copy(NamedTuple):
    """Between devices."""

    source: str
    target: str
    nbytes: int


class Allocated(TorchDispatchMode):
    """Bytes of the tensors on the GPU that operations made and that are alive: now, and the most so far (peak)."""

    def __init__(self, known: Iterable[Tensor], device: str = "cuda") -> None:
        """known: tensors that are not counted, nor views of them. device: of those that are."""
        super().__init__()
        self.device = device
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.now = self.peak = 0
        self.copies: list[Copy] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device and not is_traceable_wrapper_subclass(tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        self._copied(function, args, out)
        return out

    def reset(self) -> None:
        """The peak begins anew at what is held now."""
        self.peak = self.now

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key not in self.known and key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._forget(key, nbytes))
            self.now += nbytes

    def _forget(self, key: int, nbytes: int) -> None:
        del self.alive[key]
        self.now -= nbytes

    def _copied(self, function: Any, args: Sequence[Any], out: Any) -> None:
        if function.overloadpacket.__name__ == "copy_":
            source, target = args[1], args[0]
        elif function.overloadpacket.__name__ == "_to_copy":
            source, target = args[0], out
        else:
            return
        if source.device.type != target.device.type:
            self.copies.append(Copy(source.device.type, target.device.type, target.nbytes))


class Flash(TorchFunctionMode):
    """Attention as flash attention allocates it: its output, and one float32 per row and head. flops: of its two products by the
    dtype of its inputs, a multiplication and an addition as two."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = (args[i] if i < len(args) else kwargs[name] for i, name in enumerate(("query", "key", "value")))
        batch, heads, rows, head_dim = q.shape
        self.flops[q.dtype] += 2 * batch * heads * rows * k.shape[2] * (head_dim + v.shape[3])
        q.new_empty(batch, heads, rows, dtype=torch.float32)
        return q.new_empty(batch, rows, heads, v.shape[3]).transpose(1, 2)
