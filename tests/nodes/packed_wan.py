"""A loader of its own kind, with what GGUF loaders have of their own: classes of tensors, some under the shape of what they stand
for, layers without a weight until it is loaded, and names in the state dict that are no parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.ops
import torch
from comfy.sd import load_diffusion_model_state_dict
from tiny_wan import METADATA
from torch import Tensor, nn


def load_packed(weights: Mapping[str, Tensor], matrices: Iterable[str]) -> Any:
    """As GGUF loaders do: core's loader over operations and tensors of their own. matrices: names of those to pack."""
    packed = {name: PackedTensor.of(weights[name]) for name in matrices}
    kept = {name: KeptTensor.of(weight.float()) for name, weight in weights.items() if name not in packed}
    return load_diffusion_model_state_dict({**kept, **packed}, {"custom_operations": PackedOps}, metadata=METADATA)


class KeptTensor(Tensor):
    """What stays as it is comes in a class of the loader's, too."""

    @classmethod
    def of(cls, weight: Tensor) -> "KeptTensor":
        return weight.clone().as_subclass(cls)


class PackedTensor(Tensor):
    """Rows of bytes, in the shape of what they stand for: blocks of 32 values, each a float16 scale and 32 int8 (Q8_0)."""

    of_shape: torch.Size

    @classmethod
    def of(cls, weight: Tensor) -> "PackedTensor":
        blocks = weight.float().reshape(-1, 32)
        scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
        values = (blocks / scale.float()).round().to(torch.int8)
        rows = torch.cat([scale.view(torch.uint8), values.view(torch.uint8)], 1).reshape(len(weight), -1)
        packed = rows.as_subclass(cls)
        packed.of_shape = weight.shape
        return packed

    def unpacked(self) -> Tensor:
        blocks = self.as_subclass(Tensor).reshape(-1, 34)
        return (blocks[:, 2:].view(torch.int8) * blocks[:, :2].contiguous().view(torch.float16).float()).reshape(self.of_shape)

    @property
    def shape(self) -> torch.Size:
        return self.of_shape

    def detach(self) -> "PackedTensor":
        return self

    def to(self, *args: Any, **kwargs: Any) -> "PackedTensor":
        return self


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features, self.weight, self.bias = in_features, out_features, None, None

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
            for name in ("weight", "bias"):
                if f"{prefix}{name}" in state_dict:
                    setattr(self, name, nn.Parameter(state_dict[f"{prefix}{name}"], requires_grad=False))

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            """Sizes for the memory manager, and room for unpacking under a name that is no parameter."""
            for name in ("weight", "temp.weight"):
                destination[f"{prefix}{name}"] = torch.empty(self.out_features, self.in_features, device="meta")
            if self.bias is not None:
                destination[f"{prefix}bias"] = torch.empty(self.out_features, device="meta")

        def convert_weight(self, weight: Tensor, **kwargs: Any) -> Tensor:
            return weight.unpacked() if isinstance(weight, PackedTensor) else weight

        def set_weight(self, weight: Tensor, return_weight: bool = False, **kwargs: Any) -> Tensor | None:
            if return_weight:
                return weight
            self.weight = nn.Parameter(weight, requires_grad=False)
            return None

        def forward(self, x: Tensor) -> Tensor:
            weight = self.convert_weight(self.weight).as_subclass(Tensor).to(x.dtype)
            bias = None if self.bias is None else self.bias.as_subclass(Tensor).to(x.dtype)
            for change in self.weight_function:
                weight = change(weight)
            return nn.functional.linear(x, weight, bias)
