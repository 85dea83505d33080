"""Whole generations of Wan networks by several ranks, and what is counted in them: what each rank does in tests."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from magcache_run import flat_table
from sharded_cases import Model, error, predicted, request
from sharded_networks import CPU, conditioning
from step_operations import recorded
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastvideo_core import Guidance, MagCacheSettings, SamplingRequest, Schedule, generate, seeded_noise
from fastvideo_core.errors import RequestError, StoppedError
from fastvideo_core.parallel import Layout, Mesh, joined
from fastvideo_core.schedule import Phase
from fastvideo_core.step_cache import DBCache, DBCacheSettings, MagCache
from fastvideo_core.wan.loading import apply_lora, load_transformer
from fastvideo_core.wan.memory import own_bytes
from fastvideo_core.wan.ranked import PhaseAccount, RankExperts
from tools.simulated import Allocated

COLLECTIVE = re.compile("all_?(gather|to_?all|reduce)|broadcast|barrier|scatter|send|recv")


def magcache(schedule: Schedule) -> MagCache:
    table = flat_table(schedule, boundary=0.8 if len(schedule.phases) > 1 else None)
    return MagCache(schedule, table, MagCacheSettings(threshold=0.25, max_skips=2, trend=0.5))


def dbcache(schedule: Schedule) -> DBCache:
    return DBCache(schedule, DBCacheSettings(threshold=0.2, first_blocks=1, warmup_steps=2))


def generated(experts: Any, model: Model, asked: SamplingRequest) -> Tensor:
    """The video of a whole generation."""
    guidance = Guidance(asked.plan(), asked.guidance)
    noise = seeded_noise(tuple(model.latents.shape), asked.seed)
    *_, last = generate(asked, experts, conditioning(model.kind, model.size), noise, guidance)
    return last.latents


@dataclass(frozen=True)
class Found:
    """Of a generation by ranks. error: against one process; decisions, alone: of its step cache, as text, and of one process's;
    held, held_alone: bytes, at most."""

    error: float
    decisions: str = ""
    alone: str = ""
    held: int = 0
    held_alone: int = 0
    account: PhaseAccount | None = None


def generation(mesh: Mesh, model: Model, asked: SamplingRequest, new_cache: Callable[..., Any] | None = None) -> Found:
    """A generation by ranks and by one process, with a step cache of `new_cache(schedule)`."""
    schedule = asked.plan()
    names = [phase.expert for phase in schedule.phases]
    caches = [None, None] if new_cache is None else [new_cache(schedule), new_cache(schedule)]
    networks = model.networks(names)
    alone = generated(model.alone(networks, asked, caches[0]), model, asked)
    ranked = model.ranked(mesh, networks, asked, caches[1])
    together = generated(ranked, model, asked)
    texts = ["" if cache is None else cache.done.text() for cache in caches]
    held = [0 if cache is None else cache.peak_bytes for cache in caches]
    return Found(error(together, alone), texts[1], texts[0], held[1], held[0], ranked.accounts[-1])


def alone_on_one(model: Model, asked: SamplingRequest, new_cache: Any, layout: Layout | None = None) -> Found:
    """By a layout of one rank, in this process. layout: that it takes itself to be of."""
    with joined(Layout(), 0, "") as mesh:
        return generation(replace(mesh, layout=layout or mesh.layout), model, asked, new_cache)


def generations(mesh: Mesh, given: Sequence[tuple[Any, ...]]) -> list[Found]:
    return [generation(mesh, *each) for each in given]


def between_ranks(mesh: Mesh, model: Model, asked: SamplingRequest, step: int) -> tuple[list[float], float, str, str]:
    """DBCache with a threshold that lies between what the ranks would measure on their own rows in `step`: these, the threshold,
    and the decisions of the ranks and of one process."""
    own: list[float] = []

    class Listening(DBCache):
        """Writes down what this rank alone has."""

        def open(self, phase: Phase) -> Any:
            session = super().open(phase)
            share = session.share

            def listening(sums: Callable[[Tensor], Tensor], decides: Any = None) -> None:
                def heard(values: Tensor) -> Tensor:
                    own.append(float(values[0] / values[1]))
                    return sums(values)

                share(heard, decides)

            session.share = listening  # type: ignore[method-assign]
            return session

    schedule, networks = asked.plan(), model.networks()
    settings = DBCacheSettings(threshold=1e-9, first_blocks=1, warmup_steps=1)
    generated(model.ranked(mesh, networks, asked, Listening(schedule, settings)), model, asked)
    mine = torch.zeros(mesh.everyone.size)
    mine[mesh.everyone.rank] = own[step - 1]
    differences = mesh.everyone.sums(mine).tolist()
    threshold = sum(differences) / len(differences)
    caches = [DBCache(schedule, replace(settings, threshold=threshold)) for _ in range(2)]
    generated(model.ranked(mesh, networks, asked, caches[0]), model, asked)
    generated(model.alone(networks, asked, caches[1]), model, asked)
    return differences, threshold, caches[0].done.text(), caches[1].done.text()


class _Shapes(TorchDispatchMode):
    """The shapes of all that is computed while `inside`."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.shapes = False, set[tuple[int, ...]]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if self.inside and isinstance(out, Tensor):
            self.shapes.add(tuple(out.shape))
        return out


def shapes_in_blocks(mesh: Mesh, model: Model) -> set[tuple[int, ...]]:
    """Of every tensor that the blocks of a call make."""
    networks, seen = model.networks(), _Shapes()

    def enter(*_: object) -> None:
        seen.inside = True

    def leave(*_: object) -> None:
        seen.inside = False

    for block in networks["single"].blocks:
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    with seen:
        predicted(model.ranked(mesh, networks, request()), model)
    return seen.shapes


def exchanges(mesh: Mesh, model: Model, asked: SamplingRequest) -> list[Counter[str]]:
    """The collectives of each step of a generation, after the first."""
    networks = model.networks()
    ranked = model.ranked(mesh, networks, asked)
    noise = seeded_noise(tuple(model.latents.shape), asked.seed)
    guidance = Guidance(asked.plan(), asked.guidance)
    with recorded(networks["single"]) as (operations, next_step):
        for _ in generate(asked, ranked, conditioning(model.kind, model.size), noise, guidance):
            next_step()
    steps = [operations.inside[i] + operations.outside[i] for i in range(1, asked.steps)]
    return [Counter({name: count for name, count in step.items() if COLLECTIVE.search(name)}) for step in steps]


@dataclass(frozen=True)
class Held:
    """What a rank has of the weights of a file's blocks. values: of each, how many; own, private: bytes of these, and of the
    memory that they are in; reading: the most bytes that were made while they were read; whole: the blocks whose weights are all
    there, at the beginning of each block of a call; left: on which devices they are afterwards, where they were to be put on
    another one; linears: layers that were computed by what is fastest; written: what FSDP keeps of calls that are over; error:
    against one process."""

    values: dict[str, int]
    own: int
    private: int
    reading: int
    whole: list[list[int]]
    left: set[str]
    linears: int
    written: int
    error: float


def held(mesh: Mesh, file: Path, model: Model) -> Held:
    networks, whole = {"single": load_transformer(file)}, list[list[int]]()
    alone = predicted(model.alone(networks, request()), model)
    ranked, blocks = model.ranked(mesh, networks, request()), networks["single"].blocks
    mapped = list(blocks.parameters())  # from the file, and not to be taken for others that lie in their place later
    with Allocated(mapped, "cpu") as reading:
        ranked.rank.load("single")
    parts = {name: weight.to_local() for name, weight in blocks.named_parameters()}
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts.values()}
    for each in blocks:
        each.register_forward_pre_hook(lambda *_: whole.append([i for i, block in enumerate(blocks) if not _is_shared(block)]))
    together = predicted(ranked, model)
    return Held(
        values={name: part.numel() for name, part in parts.items()}, own=own_bytes(blocks), private=sum(storages.values()),
        reading=reading.peak, whole=whole, left=_left(mesh, load_transformer(file)), linears=len(ranked.accounts[-1].linears),
        written=sum(len(block._get_fsdp_state()._comm_ctx.post_forward_order) for block in blocks), error=error(together, alone),
    )  # fmt: skip


def _left(mesh: Mesh, network: WanTransformer3DModel) -> set[str]:
    rank = RankExperts({"single": network}, mesh, CPU, torch.device("meta"), shard_weights=True)
    rank.load("single")
    rank.offload()
    return {weight.device.type for weight in network.parameters()}


def _is_shared(block: nn.Module) -> bool:
    return all(isinstance(weight, DTensor) for weight in block.parameters())


def lora_afterwards(mesh: Mesh, model: Model) -> str:
    """What is said of a LoRA that comes after the network's first loading."""
    networks = model.networks()
    assert model.lora is not None
    with model.ranked(mesh, networks, request()).loaded("single"):
        pass
    try:
        apply_lora(networks["single"], model.lora)
    except RequestError as error:
        return str(error)
    return ""


def modules_of(made: nn.Module) -> list[Any]:
    """Which modules and processors a network has."""
    return [(name, id(module), id(getattr(module, "processor", None))) for name, module in made.named_modules()]


@dataclass(frozen=True)
class Ended:
    """raised: what ended the first run; blocks: how many had run; left: whether it left something; again: how far a run after it
    is from one process."""

    raised: str
    blocks: int
    left: bool
    again: float


def ended(mesh: Mesh, model: Model, asked: SamplingRequest, how: str, asks: int = 0) -> Ended:
    """A generation that comes to no end: closed after a step, failed in a block on every rank, or stopped by one rank that was
    told to when it was asked for the `asks`-th time."""
    networks = model.networks()
    made, blocks = networks["single"], [0]
    asked_so_far, told = [0], [how == "stopped"]

    def counted(*_: object) -> None:
        blocks[0] += 1
        if how == "failed" and blocks[0] == asks:
            raise ValueError("a block failed")

    def is_told() -> bool:
        asked_so_far[0] += 1
        return told[0] and mesh.everyone.rank == mesh.everyone.size - 1 and asked_so_far[0] >= asks

    ranked = model.ranked(mesh, networks, asked, told=is_told)
    ranked.rank.load("single")  # from now on weights are shared, if they are
    before = modules_of(made)
    hooks = [block.register_forward_pre_hook(counted) for block in made.blocks]
    raised = ""
    noise = seeded_noise(tuple(model.latents.shape), asked.seed)
    steps = generate(asked, ranked, conditioning(model.kind, model.size), noise, Guidance(asked.plan(), asked.guidance))
    try:
        for _ in steps:
            if how == "closed":
                break
    except (StoppedError, ValueError) as problem:
        raised = type(problem).__name__
    steps.close()
    ran, told[0], how = blocks[0], False, "over"
    for hook in hooks:
        hook.remove()
    left = modules_of(made) != before or any(_is_shared(block) != model.shard_weights for block in made.blocks)
    again = generated(ranked, model, asked)
    return Ended(raised, ran, left, error(again, generated(model.alone(model.networks(), asked), model, asked)))
