"""Linear layers on the CPU in float32 by oneDNN. torch's own `linear` takes MKL there, which on AMD's CPUs uses half of the
vector units; what both compute differs by rounding only. In the lower dtypes torch takes oneDNN by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn


def linear_pointwise(x: Tensor, linear: nn.Linear, then: str, algorithm: str) -> Tensor:
    """A linear layer and what follows each of its values. torch's compiler puts this in the place of `linear` in frozen code
    (torch/_inductor/fx_passes/mkldnn_fusion.py). It has no gradient."""
    compute = _in_compiled_code if torch.compiler.is_compiling() else _pointwise
    return compute(x, linear.weight, linear.bias, then, algorithm)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, then: str, algorithm: str) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], algorithm)
    return y


# Inductor knows the operator and takes it with constant weights only; what it does not know it calls as it is.
_in_compiled_code = torch.library.custom_op("fastvideo::linear_pointwise", _pointwise, mutates_args=())


@_in_compiled_code.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None, then: str, algorithm: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class OneDNNLinear(nn.Linear):
    """`nn.Linear` with the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return linear_pointwise(x, self, "none", "")


class OneDNNGELU(GELU):  # type: ignore[misc]
    """Diffusers' linear layer with a tanh-approximated GELU, which is applied while a value is in a register."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return linear_pointwise(hidden_states, self.proj, "gelu", "tanh")


@contextmanager
def with_onednn(network: nn.Module) -> Iterator[None]:
    """The network's plain linear layers whose weights are float32 and on the CPU compute by oneDNN; afterwards they are as
    before. Layers of other classes (LoRA's, quantised ones) are left alone, what they wrap is not."""
    changed = [(module, own, faster) for module in network.modules() if (own := type(module)) and (faster := _faster(module))]
    try:
        for module, _, faster in changed:
            module.__class__ = faster
        yield
    finally:
        for module, own, _ in changed:
            module.__class__ = own


def _faster(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is nn.Linear and _fits(module):
        return OneDNNLinear
    if type(module) is GELU and module.approximate == "tanh" and type(module.proj) is nn.Linear and _fits(module.proj):
        return OneDNNGELU
    return None


def _fits(linear: nn.Linear) -> bool:
    is_float32_on_cpu = linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32
    return is_float32_on_cpu and hasattr(torch.ops.mkldnn, "_linear_pointwise")
