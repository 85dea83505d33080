"""Where `linear` meets diffusers' network: the class of its plain linear layers is changed for a phase."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn

from .linear import LinearAccount, in_compiled_code


class FastLinear(nn.Linear):
    """`nn.Linear` with the same weights. It has no gradient."""

    account: LinearAccount

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return in_compiled_code(x, self, gelu=False)
        return self.account.compute(x, self, gelu=False)


class FastGELU(GELU):  # type: ignore[misc]
    """Diffusers' linear layer with a tanh-approximated GELU."""

    account: LinearAccount

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return in_compiled_code(hidden_states, self.proj, gelu=True)
        return self.account.compute(hidden_states, self.proj, gelu=True)


@contextmanager
def fast_linears(network: nn.Module, account: LinearAccount) -> Iterator[None]:
    """The network's plain linear layers whose weights are float32 and on the CPU compute by what is fastest for them; afterwards
    they are as before. Layers of other classes (LoRA's, quantised ones) are left alone, what they wrap is not."""
    changed = [(module, type(module), faster) for module in network.modules() if (faster := _faster(module))]
    try:
        for module, _, faster in changed:
            module.__class__ = faster
            vars(module)["account"] = account
        yield
    finally:
        for module, own, _ in changed:
            module.__class__ = own
            vars(module).pop("account", None)


def _faster(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is nn.Linear and _fits(module):
        return FastLinear
    if type(module) is GELU and module.approximate == "tanh" and type(module.proj) is nn.Linear and _fits(module.proj):
        return FastGELU
    return None


def _fits(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32
