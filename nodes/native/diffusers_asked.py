"""What a node may ask of a MODEL of diffusers' network: each is done as core's network does it, or refused by name.

Done: block replaces of ("double_block", i), `rope_options`, weights and LoRAs, object patches of core's model around the network
and of what its layers hold, wrappers, callbacks and compiled blocks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fastvideo_core import RequestError

from .blocks import wrapped_forwards
from .override import OVERRIDE, override_in

READ_BEFORE = ("denoise_mask",)  # core's model turns it into timesteps per frame before it calls the network
NETWORK = "diffusion_model."


def refuse_unread(inputs: dict[str, Any], options: dict[str, Any]) -> None:
    """What a call of the network would ignore is an error."""
    unread = [name for name, value in inputs.items() if value is not None and name not in READ_BEFORE]
    unread += [name for name, patches in options.get("patches", {}).items() if patches]
    unread += [OVERRIDE] if OVERRIDE in options and override_in(options) is None else []
    _refuse(unread)


def refuse_object_patches(executor: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Core's PREPARE_SAMPLING wrapper, before patches are put in: those that nobody would read are errors, for core's network has
    other modules than diffusers', and calls them in another way."""
    network = model.model.diffusion_model
    patches = {name: value for name, value in model.object_patches.items() if name.startswith(NETWORK)}
    _refuse([name for name, value in patches.items() if not _acts(network, name.removeprefix(NETWORK), value)])
    return executor(model, *args, **kwargs)


def _acts(network: Any, path: str, value: Any) -> bool:
    owner, _, last = path.rpartition(".")
    if hasattr(value, "_orig_mod"):
        return True  # compiled in its place
    if not owner:
        return last == "forward"
    try:
        module = network.get_submodule(owner)
    except AttributeError:
        return False
    is_layer = not list(module.children()) and bool(list(module.parameters()))
    return is_layer or last in module._parameters


def _refuse(unread: list[str]) -> None:
    if unread:
        raise RequestError(
            f"A model from FastVideo Load Diffusers Model does not read {', '.join(unread)}, which a node before the sampler "
            "set. Load the file with core's Load Diffusion Model instead, or remove that node."
        )


def placed(transformer: Any, options: dict[str, Any] | None) -> AbstractContextManager[None]:
    """For a call: tokens stand where `rope_options` (core's ScaleROPE) say."""
    if options is None:
        return nullcontext()
    rope = transformer.rope

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        counts = [size // part for size, part in zip(x.shape[2:], rope.patch_size, strict=True)]
        axes = zip(("t", "y", "x"), counts, (rope.t_dim, rope.h_dim, rope.w_dim), strict=True)
        tables = [_axis(options, name, count, dim, x.device) for name, count, dim in axes]
        return _joined([cos for cos, _ in tables], counts), _joined([sin for _, sin in tables], counts)

    return wrapped_forwards([(rope, lambda _: forward)])


def _axis(options: dict[str, Any], name: str, count: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of one axis, (count, dim). Its positions are 0, 1, ... times the scale, plus the shift."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    places = torch.arange(count, dtype=torch.float64, device="cpu")
    positions = places * options.get(f"scale_{name}", 1.0) + options.get(f"shift_{name}", 0.0)
    table = get_1d_rotary_pos_embed(dim, positions, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64)
    cos, sin = (part.to(device, torch.float32) for part in table)
    return cos, sin


def _joined(tables: list[Tensor], counts: list[int]) -> Tensor:
    """(1, T * H * W, 1, D), as diffusers' rope gives it."""
    shapes = [[-1 if axis == i else 1 for i in range(3)] for axis in range(3)]
    full = [table.reshape(*shape, table.shape[1]).expand(*counts, -1) for table, shape in zip(tables, shapes, strict=True)]
    return torch.cat(full, dim=-1).reshape(1, -1, 1, sum(table.shape[1] for table in tables))
