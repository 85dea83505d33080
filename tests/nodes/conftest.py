"""Tiny real Wan MODELs in the ComfyUI of this process, and calls of nodes without a prompt."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.comfy_in_process import ComfyInProcess

sys.path.append(str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks are slower on several threads, and a fixed number makes sums repeat bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def load_wan(comfy: ComfyInProcess) -> Callable[..., Any]:
    """(kind, seed) -> MODEL of core's loader, the same one for the whole session: a test that changed it would break others."""
    from comfy.sd import load_diffusion_model
    from tiny_wan import save_wan

    @cache
    def load(kind: str = "t2v", seed: int = 0) -> Any:
        path = save_wan(comfy.model_folder("diffusion_models"), f"{kind}_{seed}", kind, seed)
        with torch.inference_mode():
            return load_diffusion_model(str(path))

    return load


@pytest.fixture
def vace(comfy: Any) -> Any:
    """A tiny VACE network: control blocks beside every second block."""
    from comfy import ops
    from comfy.ldm.wan.model import VaceWanModel
    from comfy.sd import load_diffusion_model
    from safetensors.torch import save_file
    from tiny_wan import METADATA, TEXT_DIM, scaled

    network = VaceWanModel(
        text_dim=TEXT_DIM, dim=64, ffn_dim=128, num_heads=1, num_layers=4, vace_layers=2, vace_in_dim=96, in_dim=16, out_dim=16,
        dtype=torch.float32, device=torch.device("cpu"), operations=ops.disable_weight_init,
    )  # fmt: skip
    path = comfy.model_folder("diffusion_models") / "vace_0.safetensors"
    save_file(scaled(network.state_dict(), 0), path, METADATA)
    return load_diffusion_model(str(path))


@pytest.fixture
def direct(comfy: ComfyInProcess) -> Iterator[ComfyInProcess]:
    """For calls of nodes outside a prompt: inference mode as in a prompt, and no progress, which belongs to one."""
    from comfy import model_management, utils

    hook = utils.PROGRESS_BAR_HOOK
    utils.set_progress_bar_global_hook(None)
    with torch.inference_mode():
        yield comfy
        model_management.unload_all_models()  # what a test patched and dropped would slow the next ones down
    utils.set_progress_bar_global_hook(hook)


@pytest.fixture(scope="session")
def prompts(comfy: ComfyInProcess, load_wan: Callable[..., Any]) -> ComfyInProcess:
    """The host with tiny files in its folders and a node `TinyConditioning`, for whole prompts."""
    from graphs import TinyConditioning

    import nodes

    for kind, seed in (("t2v", 0), ("t2v", 1), ("i2v", 0), ("i2v_clip", 0), ("ti2v", 0)):
        load_wan(kind, seed)
    nodes.NODE_CLASS_MAPPINGS["TinyConditioning"] = TinyConditioning
    return comfy


@pytest.fixture(scope="session")
def tiny(prompts: ComfyInProcess, load_wan: Callable[..., Any]) -> ComfyInProcess:
    """`prompts` with inputs that no core node makes: NaN, another family, a model that ComfyUI thinks too big."""
    from graphs import BAD_NODES
    from safetensors.torch import load_file, save_file
    from tiny_wan import METADATA, save_wan

    import nodes

    folder = prompts.model_folder("diffusion_models")
    load_wan("i2v", 1)
    save_wan(folder, "t2v_wide", "t2v", 0, dim=128)
    weights = load_file(folder / "t2v_0.safetensors")
    weights["head.head.bias"][:] = torch.nan
    save_file(weights, folder / "t2v_nan.safetensors", METADATA)
    nodes.NODE_CLASS_MAPPINGS.update(BAD_NODES)
    return prompts
