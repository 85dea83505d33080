"""What every rank of a group does, and what it finds: core's real networks on its own rows, beside the same networks whole.

For processes that have ComfyUI on their path and nothing of it loaded.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastvideo_rank
import torch
from torch import Tensor

from fastvideo_core import DBCacheSettings, Phase, plan, shifted_sigmas
from fastvideo_core.errors import StoppedError
from fastvideo_core.parallel import AgreedStop, Layout, Mesh, Ranks
from fastvideo_core.step_cache import DBCache, MagCache

native = fastvideo_rank.native({"cpu": True, "use_pytorch_cross_attention": True})

import comfy.lora  # noqa: E402 - after its options
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
from caching import TINY, flat_table  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from sampling import CLIP_TOKENS, normal  # noqa: E402
from tiny_wan import KINDS, TEXT_DIM, scaled  # noqa: E402

hooks, RankNetworks = native("rank_hooks"), native("rank_network").RankNetworks

HEADS, LAYERS = 4, 3
SIZES = {"even": (3, 8, 8), "odd": (3, 6, 6)}  # 48 tokens, and 27
ALONE = Mesh(Layout(), Ranks(), Ranks(), Ranks(), Ranks())
STEPS = 8
BOTH = [1, 0]  # core's numbers of the two branches, in the order in which it joins them


def shard_of(ranks: Ranks) -> Any:
    """Which nobody stops."""
    return hooks.RankShard(ranks, AgreedStop(Ranks(), lambda: False))


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
    with hooks.sharded(network, options, shard_of(ranks)):
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
        with hooks.sharded(network, options, shard_of(ranks)):
            out = network(**inputs, transformer_options=options)
        assert options["patches_replace"]["dit"] == {("double_block", 1): hook}
        return out

    with torch.inference_mode():
        whole, seen[:] = run(Ranks()), []
        out = run(mesh.everyone)
    return {"difference": difference(out, whole), "rows": seen}


def predicted(networks: RankNetworks, name: str, at: int = 0, parts: Sequence[int] = BOTH, **cached: Any) -> Tensor | None:
    inputs = {key: value[: len(parts)] for key, value in inputs_of("t2v", "odd", step=at).items()}
    answer = networks.predict(name, inputs, parts, {}, cached)
    return None if answer is None else answer[1]


def files_case(mesh: Mesh, folder: Path) -> dict[str, Any]:
    """Two experts of files, one of them with a LoRA for a while: the difference of each call to core's own loader's networks.
    The outputs of the halves of a layout are joined here, where each rank tells its own."""
    networks = RankNetworks(mesh)
    facts = [networks.load(name, str(folder / f"{name}.safetensors"), {}) for name in ("high", "low")]
    high, low = (core_model(folder / f"{name}.safetensors") for name in ("high", "low"))
    names = comfy.lora.model_lora_keys_unet(high.model, {})
    lora = comfy.lora.load_lora(comfy.utils.load_torch_file(str(folder / "tiny.safetensors")), names)
    patched = high.clone()
    assert patched.add_patches(lora, 0.8)
    found, seen = [], []
    with watched_networks(seen):
        for name, model in (("high", high), ("low", low), ("high", patched), ("low", low), ("high", high)):
            networks.patch(name, model.patches, str(model.patches_uuid) if model.patches else None)
            found += [part_difference(mesh, predicted(networks, name, parts=parts), model, parts) for parts in (BOTH, [0])]
    copies = len(networks._network.backup)
    held = [held_of(seen)]
    networks.offload()
    held.append(held_of(seen))
    return {"kinds": [each["kind"] for each in facts], "differences": found, "copies": copies, "opened": len(seen), "held": held}


def held_of(seen: Sequence[Any]) -> int:
    """How many of them there are still."""
    gc.collect()
    return sum(reference() is not None for reference in seen)


@contextmanager
def watched_networks(seen: list[Any]) -> Iterator[None]:
    """Remembers what core's loader makes, and keeps none of it."""
    load = comfy.sd.load_diffusion_model

    def watched(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        seen.append(weakref.ref(model))
        return model

    comfy.sd.load_diffusion_model = watched
    try:
        yield
    finally:
        comfy.sd.load_diffusion_model = load


def core_model(path: Path) -> Any:
    return comfy.sd.load_diffusion_model(str(path), disable_dynamic=True)


def part_difference(mesh: Mesh, out: Tensor | None, model: Any, parts: Sequence[int]) -> float | None:
    """To the part of the batch that the rank gives; None where it gives none."""
    if out is None:
        return None
    comfy.model_management.load_models_gpu([model])
    inputs = {key: value[: len(parts)] for key, value in inputs_of("t2v", "odd").items()}
    if len(parts) == mesh.layout.cfg == 2:
        inputs = {key: value.chunk(2)[own_part(mesh)] for key, value in inputs.items()}
    with torch.inference_mode():
        return difference(out, model.model.diffusion_model(**inputs, transformer_options={}))


def own_part(mesh: Mesh) -> int:
    """Which one of the two branches in a batch a rank computes where the layout has a half for each."""
    return BOTH.index(("positive", "negative").index(mesh.branch))


def cache_case(mesh: Mesh, folder: Path, cache: str) -> dict[str, Any]:
    """A step cache in a phase of calls: what all of them did on this rank, and on one rank alone."""
    shared, alone = run_cached(mesh, folder, cache), run_cached(ALONE, folder, cache)
    outs = [
        None if out is None else difference(out, whole.chunk(2)[own_part(mesh)] if mesh.layout.cfg == 2 else whole)
        for out, whole in zip(shared["outs"], alone["outs"], strict=True)
    ]
    mine, whole = shared["counts"], alone["counts"]
    return {
        "same": mine[:3] == whole[:3],
        "plan": "".join(decision.action[0] for decision in mine.decisions),
        "differences": outs,
        "bytes": (mine.peak_bytes, whole.peak_bytes),
    }


def run_cached(mesh: Mesh, folder: Path, cache: str) -> dict[str, Any]:
    networks = RankNetworks(mesh)
    networks.load("high", str(folder / "high.safetensors"), {})
    schedule = plan(shifted_sigmas(STEPS, 5.0), 4.0)
    networks.open("cache", CACHES[cache](schedule, schedule.phases[0]))
    outs = [predicted(networks, "high", step, cache="cache", step=step, forget=()) for step in range(STEPS)]
    return {"outs": outs, "counts": networks.close("cache")}


def magcache(schedule: Any, phase: Phase) -> Any:
    return MagCache(schedule, flat_table("tiny", None), TINY).open(phase)


def dbcache(schedule: Any, phase: Phase) -> Any:
    return DBCache(schedule, DBCacheSettings(threshold=0.4, first_blocks=1, last_blocks=0, warmup_steps=1)).open(phase)


CACHES: Mapping[str, Callable[[Any, Phase], Any]] = {"magcache": magcache, "dbcache": dbcache}


def stop_case(mesh: Mesh, folder: Path) -> tuple[str, float | None]:
    """A call that one rank is told to stop, and one after it."""
    asked = [mesh.everyone.rank == 2]
    networks = RankNetworks(mesh, lambda: asked[0])
    networks.load("high", str(folder / "high.safetensors"), {})
    try:
        predicted(networks, "high")
        ended = "not at all"
    except StoppedError as error:
        ended = type(error).__name__
    asked[0] = False
    return ended, part_difference(mesh, predicted(networks, "high"), core_model(folder / "high.safetensors"), BOTH)
