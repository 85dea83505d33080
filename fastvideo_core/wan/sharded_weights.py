"""Weights of blocks that ranks share as they share tokens: each holds a part of every block's, and gathers a block's before it
computes it (FSDP, Zhao et al. 2023, arXiv 2304.11277; torch's `fully_shard`)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..parallel.layout import Layout
from ..parallel.ranks import Ranks
from .blocks import BlockStack
from .loading.checkpoint import open_checkpoint
from .loading.lora_change import fuse
from .loading.quantised import has_float8
from .memory import own_bytes
from .parts import File
from .placement import is_group_offloaded

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

T = TypeVar("T")
GATHERED = 3
"""Blocks that are whole on a rank at a time, at the most: the one that computes, what it was copied from, and the next one."""


class _Blocks(nn.Module):
    """What FSDP takes for the whole network. In one forward of it a block is gathered while the one before it computes."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, call: Callable[[], T]) -> T:
        return call()


class ShardedWeights:
    """The weights of one network's blocks, of which each rank holds its part from now on, and all others whole. LoRAs of the
    blocks are fused into them, and cannot be taken off any more.

    own_bytes: of this rank's part. whole_bytes: of all parts. block_bytes: of the largest block.
    """

    def __init__(self, transformer: "WanTransformer3DModel", ranks: Ranks, device: torch.device) -> None:
        """ranks: those that share the tokens. device: where they compute; their parts are there afterwards. While one block is
        read, the others are their parts, or still in the file.

        Raises:
            RequestError: its weights move in groups, or are no plain numbers.
        """
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard

        _check(transformer)
        assert ranks.group is not None
        mesh, blocks = DeviceMesh.from_group(ranks.group, device.type), transformer.blocks
        self.ranks, whole = ranks, []
        for block in blocks:
            for module in block.modules():
                fuse(module)
            whole.append(own_bytes(block))
            fully_shard(block, mesh=mesh)
        self.block_bytes, self.whole_bytes = max(whole), sum(whole)
        self.own_bytes = own_bytes(blocks)
        self._blocks, self._root = blocks, _Blocks(blocks)
        fully_shard(self._root, mesh=mesh)
        self._root(lambda: None)  # FSDP looks for its modules in the first call, and finds others in their place in later ones

    def gathering(self, stack: BlockStack) -> BlockStack:
        """The same stack of the network's blocks, each with its weights while it computes and without them afterwards, also on
        interrupt."""

        def call(x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
            try:
                out: Tensor = self._root(partial(stack, x, context, time_mod, rope))
            except BaseException:
                self._let_go()
                raise
            finally:
                self._forget_order()
            return out

        return call

    def _let_go(self) -> None:
        """Of what a call that came to no end had gathered."""
        for block in self._blocks:
            block.reshard()
        self._root(lambda: None)

    def _forget_order(self) -> None:
        """Of the blocks: FSDP writes each down for a backward pass (torch 2.11, FSDPParamGroup._record_post_forward), which never
        comes here, and would keep the list for ever."""
        for block in self._blocks:
            group = block._get_fsdp_state()._fsdp_param_group
            group._post_forward_indices.clear()
            group.comm_ctx.post_forward_order.clear()

    def note(self) -> str:
        """For the report."""
        own, whole, block = (size / 2**20 for size in (self.own_bytes, self.whole_bytes, self.block_bytes))
        return (
            f"the blocks' weights are shared by {self.ranks.size} ranks: each holds {own:.1f} of {whole:.1f} MiB, and gathers a "
            f"block's, up to {block:.1f} MiB, before it computes it"
        )


def check_layout(layout: Layout) -> None:
    """Raises RequestError where there is nobody to share weights with."""
    if layout.ulysses == 1:
        raise RequestError(
            f"Weights were to be shared by the ranks that share tokens, and in the layout {layout.text()} none do. "
            f"Use a layout with ulysses 2 or more, such as cfg 1 x ulysses {max(2, layout.ranks)}, or leave the weights whole."
        )


def check_unquantised(files: Mapping[str, File]) -> None:
    """Raises RequestError where weights are stored in 8 bits: read here, they are as large as others, on every rank."""
    for file in files.values():
        if has_float8(open_checkpoint(file.path)):
            raise RequestError(
                f"Weights were to be shared by ranks, and those of {file.path} are quantised (float8). Use the bf16, fp16 or "
                "fp32 file of the same model, or leave the weights whole."
            )


def _check(transformer: "WanTransformer3DModel") -> None:
    if is_group_offloaded(transformer):
        raise RequestError(
            "Weights were to be shared by ranks, and the transformer is group-offloaded, which moves them by itself. Load it "
            "without that."
        )
    if any(type(each) is not nn.Parameter or each.itemsize == 1 for each in transformer.blocks.parameters()):
        raise RequestError(
            "Weights were to be shared by ranks, and those of this transformer are quantised. Use its bf16, fp16 or fp32 file, "
            "or leave the weights whole."
        )
