"""The compiled kernel of sparse attention as it allocates."""

from typing import Any

import torch
from torch import Tensor

from fastvideo_core.attention.sparse import FlexKernel


class Flex(FlexKernel):
    """Attention as flex attention allocates it: its output, laid out as the queries, and one float32 per row and head. Plans and
    padding are the kernel's own."""

    def __init__(self) -> None:
        super().__init__(compiled=False)
        self._flex = self._allocated

    @staticmethod
    def _allocated(q: Tensor, k: Tensor, v: Tensor, block_mask: Any, kernel_options: Any) -> Tensor:
        q.new_empty(q.shape[:3], dtype=torch.float32)
        return torch.empty_like(q)
