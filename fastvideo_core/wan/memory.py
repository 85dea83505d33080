"""How much memory a call of the network needs, how much a device has, and what is said where it is not enough."""

from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",  # c10/core/impl/alloc_cpu.cpp; the next one on Windows
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",  # aten/src/ATen/mps/MPSAllocator.mm
    "Invalid buffer size",  # the same, where one tensor is larger than Metal allows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",  # SYCL, for XPU outside of torch's allocator
    "There is not enough GPU video memory available",  # DirectML
)
"""What libraries that do not raise `torch.OutOfMemoryError` say."""


MARGIN = 1.05
"""Of an estimate: gaps between allocations, and the workspaces of matrix products."""


def compute_dtype(transformer: "WanTransformer3DModel") -> torch.dtype:
    """What the network computes in. Diffusers keeps norms and modulation in float32; the patch embedding never is one."""
    dtype: torch.dtype = transformer.patch_embedding.weight.dtype
    return dtype


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def call_too_large(latents: Tensor, branches: int) -> str:
    """Of one call of the network."""
    what = "Both branches of the guidance in one call do" if branches > 1 else "One transformer call does"
    remedy = "Use guidance mode sequential or auto" if branches > 1 else WAYS_OUT
    size = " x ".join(map(str, latents.shape[2:]))
    return (
        f"{what} not fit into the memory of {latents.device}: latents {size} (frames x height x width). "
        f"{remedy}, or make a smaller or shorter video."
    )


WAYS_OUT = (
    "Use group offloading (fastvideo_core.group_offload), bfloat16 in the place of float32, or an fp8_scaled file on ComfyUI's "
    "nodes, where it stays in 8 bits"
)
"""Where a transformer is too large for a device."""


def own_bytes(module: nn.Module) -> int:
    """Of its weights and buffers: of weights that ranks share, this rank's part."""
    from torch.distributed.tensor import DTensor

    tensors = (tensor for own in (module.parameters(), module.buffers()) for tensor in own)
    return sum(tensor.to_local().nbytes if isinstance(tensor, DTensor) else tensor.nbytes for tensor in tensors)


def network_too_large(network: nn.Module, device: torch.device, ways_out: str) -> str:
    """Of weights on their way to a device."""
    size = own_bytes(network)
    return f"The weights of {type(network).__name__}, {size / 2**30:.2f} GiB, do not fit into the memory of {device}. {ways_out}."


def activation_bytes(
    transformer: "WanTransformer3DModel",
    latent_shape: tuple[int, ...],
    branches: int,
    tokens_held: int = 0,
    first_frame: bool = False,
    attention_bytes: int = 0,
    ranks: int = 1,
) -> int:
    """Estimate of the peak memory of one call beside the weights, with what a step cache holds of its branches.

    A block (diffusers' WanTransformerBlock) is at its widest in GELU, with the inner layer before and after it beside the tokens
    before and in the block and of the last two parts, or where the feed-forward's output is scaled in float32, or in
    self-attention that holds more than dense one does (attention_bytes, of one video and branch), beside the tokens before and in
    the block. first_frame: tokens have a modulation of their own, which is in each block there once more in float32. Beside the
    blocks there are the rope table, and input and velocities in float32. `tests/core/test_memory_estimate.py` counts.

    ranks: how many share the tokens in the blocks. Of several, each holds queries, keys and values three times while they are
    exchanged, with the output and beside the tokens before and in the block, and all tokens as they came; after the blocks all
    tokens, gathered and twice in float32, and so much again of their own time embedding.
    """
    config = transformer.config
    batch, _, frames, height, width = latent_shape
    tokens = frames * (height // 2) * (width // 2)
    own = -(-tokens // ranks)
    itemsize = compute_dtype(transformer).itemsize
    dim, float32 = config.num_attention_heads * config.attention_head_dim, 4 / itemsize  # values of the dtype in one of float32
    attending = (2 if ranks == 1 else 12) * dim + attention_bytes / (own * itemsize)
    widest = max(2 * config.ffn_dim + 4 * dim, (5 + 3 * float32) * dim, attending)
    modulation = (7 + 6 * float32) * dim if first_frame else 0
    held = own * (modulation + tokens_held * dim)
    after = (1 + 2 * float32) * dim * (2 if first_frame else 1)
    inside = own * widest if ranks == 1 else max(own * widest + tokens * dim, tokens * after)
    latents = 4 * (config.in_channels + 2 * float32 * config.out_channels)
    values = batch * branches * (inside + held + tokens * latents) + tokens * config.attention_head_dim * float32
    return int(values * itemsize * MARGIN)


def free_bytes(device: torch.device) -> int:
    """Memory that a new allocation on `device` can have, what torch holds in reserve included."""
    available = int(psutil.virtual_memory().available)
    if device.type == "mps":  # memory that is the CPU's too, of which Metal takes a part at most
        given, held = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
        return max(0, min(torch.mps.recommended_max_memory() - given, available + held - given))
    if device.type not in ("cuda", "xpu"):
        return available
    accelerator = torch.get_device_module(device)
    held = accelerator.memory_reserved(device) - accelerator.memory_allocated(device)
    return int(accelerator.mem_get_info(device)[0]) + int(held)
