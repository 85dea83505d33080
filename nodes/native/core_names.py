"""Diffusers' Wan network in a tree of modules with the names of core's network, whose leaves are diffusers' own.

Core and other packs find weights by name: LoRAs, hooks, merges, saved files, the memory manager. The parameters that no leaf owns
(modulation, positions of image tokens) lie in the tree, and diffusers' modules are given them before each call.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastvideo_core import RequestError


class Part(nn.Module):
    """A module of core's network that diffusers calls in another way: it holds what both have, like one of core's sequences."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RequestError(
            "A node of another pack calls a module of core's network, which a model from FastVideo Load Diffusers Model has not. "
            "Load the file with core's Load Diffusion Model instead, or remove that node."
        )

    def __getitem__(self, index: int) -> nn.Module:
        return self.get_submodule(str(index))


class NamedBlock(nn.Module):
    """One of diffusers' blocks, called as diffusers does."""

    block: Any

    def __init__(self, block: Any) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)  # no child: its weights are this module's, under other names

    def forward(self, *args: Any) -> Tensor:
        out: Tensor = self.block(*args)
        return out


class Tables:
    """The parameters that no leaf owns: where they lie in the tree, and where diffusers reads them."""

    def __init__(self) -> None:
        self._places: list[tuple[nn.Module, str, nn.Module, str]] = []

    def add(self, holder: nn.Module, name: str, reader: nn.Module, as_name: str) -> None:
        holder.register_parameter(name, reader._parameters[as_name])
        self._places.append((holder, name, reader, as_name))

    def take(self) -> None:
        """From diffusers' modules, which an engine LoRA has changed."""
        for holder, name, reader, as_name in self._places:
            holder.register_parameter(name, reader._parameters[as_name])

    def give(self) -> None:
        """To diffusers' modules, for core may have put others in their place."""
        for holder, name, reader, as_name in self._places:
            if reader._parameters[as_name] is not holder._parameters[name]:
                reader._parameters[as_name] = holder._parameters[name]

    def move(self, device: torch.device) -> None:
        """Core moves and casts what has a kind of its own; these it leaves where they are unless it loads a model whole."""
        for holder, name, _, _ in self._places:
            table = getattr(holder, name)
            if table.device != device:
                holder.register_parameter(name, nn.Parameter(table.to(device), requires_grad=False))


def give_core_names(network: Any, transformer: Any) -> Tables:
    """Hangs the transformer's leaves into `network`, each where core's network has it."""
    from fastvideo_core.wan.loading import original_key

    network.blocks = nn.ModuleList(NamedBlock(block) for block in transformer.blocks)
    tables = Tables()
    for name, _ in transformer.named_parameters():
        owner, _, end = name.rpartition(".")
        module = transformer.get_submodule(owner)
        place, _, core_end = str(original_key(name)).rpartition(".")
        if list(module.children()):
            tables.add(_part(network, place), core_end, module, end)
        else:
            above, _, last = place.rpartition(".")
            _part(network, above).add_module(last, module)
    if "img_emb" not in network._modules:
        network.img_emb = None
    elif not hasattr(network.img_emb, "emb_pos"):
        network.img_emb.emb_pos = None  # of core's network it says how many images are read
    return tables


def _part(network: nn.Module, path: str) -> nn.Module:
    """The module at that path, made where there is none."""
    module = network
    for name in filter(None, path.split(".")):
        if name not in module._modules:
            module.add_module(name, Part())
        module = module.get_submodule(name)
    return module
