"""Counts what a generation takes on one GPU, on a GPU that is not there: diffusers' pipeline, ComfyUI's KSampler, the engine and
its accelerators, at the true sizes of Wan's checkpoints."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tools.comfy_in_process import ComfyInProcess
from tools.simulated.checkpoints import TrueSize

from .paper_comfyui import ROOT, fastvideo_sampler, ksampler
from .paper_count import FEW, Counted, Counter, Counts, Work, of_all
from .paper_engine import alone, dbcache, exact, magcache, sparse, two_experts
from .paper_rivals import diffusers
from .paper_videos import VIDEOS, Video, trained

STORED = Path(__file__).with_name("paper.json")
"""What the last run counted; BENCHMARKS.md is made of it."""


def run() -> dict[str, Counts]:
    """Each network at each size once; what a video's schedule makes of it is for `paper_plan`."""
    tree = os.environ.get("COMFYUI_PATH")
    if not tree:
        raise SystemExit("ComfyUI's samplers are counted too: use `make bench`, or set COMFYUI_PATH to a ComfyUI folder.")
    torch.set_num_threads(1)
    known: dict[TrueSize, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        host = ComfyInProcess(Path(tree).resolve(), Path(folder))
        host.load_pack(ROOT)
        for name, video in VIDEOS.items():
            if video.size not in known:
                known[video.size] = {way: counted(video, way, count) for way, count in ways(video, host).items()}
            print(f"{name}: counted", flush=True)
    counts = {name: _with_switch(video, known[video.size]) for name, video in VIDEOS.items()}
    store(counts)
    return counts


def ways(video: Video, host: ComfyInProcess) -> Mapping[str, Callable[[Video, int], Counter]]:
    return {
        "diffusers": diffusers,
        "KSampler": partial(ksampler, host=host),
        "FastVideo Sampler": partial(fastvideo_sampler, host=host),
        "engine": exact,
        "engine, one branch": alone,
        "MagCache": magcache,
        "DBCache": dbcache,
        **{name: partial(sparse, settings=chosen) for name, chosen in trained(video).items()},
    }


def counted(video: Video, way: str, count: Callable[[Video, int], Counter]) -> Counted:
    """DBCache keeps what the blocks between its first one and the last one add: two of them at the least."""
    return of_all(lambda layers: count(video, layers), video.row.layers, FEW + (way == "DBCache"))


def _with_switch(video: Video, counts: Counts) -> Counts:
    return {**counts, "two experts": counted(video, "two experts", two_experts)} if video.row.two_experts else counts


def store(counts: Mapping[str, Counts]) -> None:
    data = {name: {way: _plain(counted) for way, counted in of.items()} for name, of in counts.items()}
    text = json.dumps(data).replace('{"works"', '\n{"works"')  # a way a line
    STORED.write_text(text + "\n", encoding="utf-8")


def _plain(counted: Counted) -> dict[str, Any]:
    return {"works": counted.works, "block": counted.block, "copied": counted.copied, "peak": counted.peak}


def stored() -> dict[str, Counts]:
    data = json.loads(STORED.read_text(encoding="utf-8"))
    return {name: {way: _counted(plain) for way, plain in of.items()} for name, of in data.items()}


def _counted(plain: Mapping[str, Any]) -> Counted:
    works, block = (tuple(Work(*work) for work in plain[name]) for name in ("works", "block"))
    return Counted(works, block, tuple(plain["copied"]), plain["peak"])
