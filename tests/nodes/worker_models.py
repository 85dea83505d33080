"""Tiny MODELs whose network is in workers, and the same ones here."""

from collections.abc import Callable
from typing import Any

import torch
from phase_runs import run_phases
from safetensors.torch import save_file
from sampling import core_node, run_chain, run_guider, run_node, sigmas_of
from test_attention import attended
from test_guider import guider_of
from test_queue_sampler import run_queue
from test_sparse_attention import sparse
from test_trained_weights import layers_of
from tiny_wan import metadata, random_weights, save_lora
from torch import Tensor
from wan_files import FILES, scaled_fp8

QUANTISED = ("fp16", "fp8", "fp8 e4m3", "mxfp8", "nvfp4", "int8", "int8 rotated", "int4 rotated")
"""Of `wan_files.FILES`: beside float32 and the older kind of scaled file."""
Wrap = Callable[[Any, Any], Any]
"""Host and MODEL -> MODEL with a node of ours on it."""


def all_of_them(host: Any, model: Any) -> Any:
    return attended(host, sparse(host, model, "BSA"), "sdpa", "sdpa", fold_text=True)


INSIDE: dict[str, Wrap] = {
    "attention": lambda host, model: attended(host, model, "sdpa_math", "auto"),
    "VSA": sparse,
    "NABLA": lambda host, model: sparse(host, model, "NABLA", steps=1, layers=1),
    "BSA and folded text": all_of_them,
}
RUNS: dict[str, Callable[[Any, Any, Any], Tensor]] = {
    "sampler": lambda host, high, low: run_node(host, high, low_noise_model=low, steps=4)[0],
    "phases": lambda host, high, low: run_phases(host, (high, 0.95, 4.0), (high, 0.9, 1.0), (low, 0.0, 3.0), steps=4)[0],
    "queue": lambda host, high, low: _flat(run_queue(host, (high, 0.9, 4.0), (low, 0.0, 3.0), steps=[3])[0]),
    "guider": lambda host, high, low: run_guider(guider_of(host, high, low), "dpmpp_2m", sigmas_of(4)),
    "core's, chained": lambda host, high, low: run_chain(high, low, "t2v", 2, steps=4),
}
"""Runs of two experts by each sampler: host, high noise, low noise -> samples."""


def _flat(videos: list[Tensor]) -> Tensor:
    return torch.cat([video.flatten() for video in videos])


def write_files(host: Any) -> None:
    folder = host.model_folder("diffusion_models")
    for seed in (0, 1):
        save_file(random_weights("t2v", seed), folder / f"heads_{seed}.safetensors", metadata(heads=4))
    for kind in ("ti2v", "i2v", "i2v_clip", "flf2v"):
        save_file(random_weights(kind, 0), folder / f"heads_{kind}.safetensors", metadata(heads=4))
    save_file(scaled_fp8(random_weights("t2v", 0)), folder / "heads_fp8.safetensors", metadata(heads=4))
    gates = layers_of("VSA", width=64)
    save_file(random_weights("t2v", 0) | gates, folder / "heads_vsa.safetensors", metadata(heads=4))
    save_lora(host.model_folder("loras"))


def write_quantised(host: Any, kind: str) -> str:
    """Returns its name."""
    name = f"heads_{kind.replace(' ', '_')}"
    weights = FILES[kind](random_weights("t2v", 0))
    save_file(weights, host.model_folder("diffusion_models") / f"{name}.safetensors", metadata(heads=4))
    return name


def workers_of(host: Any, cfg: int, ulysses: int, **place: str) -> Any:
    layout = {"layout": "cfg x ulysses", "cfg": cfg, "ulysses": ulysses}
    node = host.node_classes["FastVideoWorkers"]
    return node.execute(count=cfg * ulysses, device="CPU", layout=layout, place=place or {"place": "this machine"}).args[0]


def on_workers(host: Any, workers: Any, name: str = "heads_0") -> Any:
    node = host.node_classes["FastVideoLoadModelOnWorkers"]
    return node.execute(workers=workers, model_name=f"{name}.safetensors", weight_dtype="default").args[0]


def here(host: Any, name: str = "heads_0") -> Any:
    return core_node(host, "UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")


def with_lora(host: Any, model: Any) -> Any:
    return core_node(host, "LoraLoaderModelOnly", model=model, lora_name="tiny.safetensors", strength_model=0.8)


def ranks_of(workers: Any) -> list[str]:
    return [name for group in workers.groups for name in group.names()]
