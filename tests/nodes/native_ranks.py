"""What every rank of a group does, and what it finds: core's real networks on its own rows, beside the same networks whole.

For processes that have ComfyUI on their path and nothing of it loaded.
"""

from typing import Any

import fastvideo_rank
import torch
from torch import Tensor

from fastvideo_core.parallel import Mesh, Ranks

native = fastvideo_rank.native({"cpu": True, "use_pytorch_cross_attention": True})

import comfy.model_management  # noqa: E402 - after its options
import comfy.ops  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from sampling import CLIP_TOKENS, normal  # noqa: E402
from tiny_wan import KINDS, TEXT_DIM, scaled  # noqa: E402

sharded = native("rank_hooks").sharded

HEADS, LAYERS = 4, 3
SIZES = {"even": (3, 8, 8), "odd": (3, 6, 6)}  # 48 tokens, and 27


def network_of(kind: str, dtype: torch.dtype = torch.float32) -> WanModel:
    network = WanModel(
        text_dim=TEXT_DIM, dim=64, ffn_dim=128, num_heads=HEADS, num_layers=LAYERS, dtype=dtype, device=torch.device("cpu"),
        operations=comfy.ops.disable_weight_init, **KINDS[kind],
    )  # fmt: skip
    network.load_state_dict(scaled(network.state_dict(), 0))
    return network.eval()


def inputs_of(kind: str, size: str, dtype: torch.dtype = torch.float32, step: int = 0) -> dict[str, Any]:
    """Of a call with both branches."""
    frames, *_ = extent = SIZES[size]
    timestep = torch.full((2,), 900.0 - 50 * step)
    if kind == "ti2v":  # a given first frame
        timestep = timestep[:, None] * torch.tensor([0.0] + [1.0] * (frames - 1))
    images = {"clip_fea": normal(3, 2, CLIP_TOKENS[kind], 1280).to(dtype)} if kind in CLIP_TOKENS else {}
    channels = KINDS[kind]["in_dim"]
    x = normal(1, 2, channels, *extent) + 0.1 * normal(10 + step, 2, channels, *extent)
    return {"x": x.to(dtype), "timestep": timestep, "context": normal(2, 2, 20, TEXT_DIM).to(dtype), **images}


def difference(one: Tensor, other: Tensor) -> float:
    """The largest, 0 for tensors that are `torch.equal`."""
    return 0.0 if torch.equal(one, other) else float((one - other).abs().max())


def kind_case(mesh: Mesh, kind: str) -> dict[tuple[str, torch.dtype, int], float]:
    """Difference of the shared network to the whole one, by size, dtype and number of ranks."""
    asked = [("even", torch.float64), ("even", torch.float32), ("odd", torch.float32)]
    with torch.inference_mode():
        return {
            (size, dtype, ranks.size): shared_difference(ranks, kind, size, dtype)
            for size, dtype in asked
            for ranks in (mesh.tokens, mesh.everyone)
        }


def frames_beside_case(mesh: Mesh) -> float:
    """With frames that a node put behind the video's."""
    with torch.inference_mode():
        return shared_difference(mesh.everyone, "t2v", "odd", torch.float32, time_dim_concat=normal(5, 2, 16, 2, 6, 6))


def shared_difference(ranks: Ranks, kind: str, size: str, dtype: torch.dtype, **more: Tensor) -> float:
    comfy.model_management.in_training = dtype is torch.float64  # core's rotation for any type, not a kernel for some
    network, inputs = network_of(kind, dtype), {**inputs_of(kind, size, dtype), **more}
    whole = network(**inputs, transformer_options={})
    options: dict[str, Any] = {}
    with sharded(network, options, ranks):
        shared = network(**inputs, transformer_options=options)
    assert set(options) <= {"grid_sizes", "total_blocks", "block_type", "block_index"}
    comfy.model_management.in_training = False
    return difference(shared, whole)


def hook_case(mesh: Mesh) -> dict[str, Any]:
    """A hook of another pack around the second block, which lets it run twice: rows that it sees, and the difference."""
    network, inputs, seen = network_of("t2v"), inputs_of("t2v", "odd"), []

    def hook(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append([args["img"].shape[1], args["pe"].shape[1]])
        first, second = extra["original_block"](args)["img"], extra["original_block"](args)["img"]
        return {"img": (first + second) / 2}

    def run(ranks: Ranks) -> Tensor:
        options: dict[str, Any] = {"patches_replace": {"dit": {("double_block", 1): hook}}}
        with sharded(network, options, ranks):
            out = network(**inputs, transformer_options=options)
        assert options["patches_replace"]["dit"] == {("double_block", 1): hook}
        return out

    with torch.inference_mode():
        whole, seen[:] = run(Ranks()), []
        out = run(mesh.everyone)
    return {"difference": difference(out, whole), "rows": seen}
