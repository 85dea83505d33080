"""What a denoising step does besides the network's own mathematics: nothing waits, and no step does more than the one before."""

from collections import Counter

import pytest
import tiny
import torch
from magcache_run import SETTINGS, flat_table
from step_operations import WAITING, StepOperations, recorded

from fastvideo_core import Guidance, GuidanceMode, GuidanceSettings, SamplingRequest, generate, seeded_noise
from fastvideo_core.step_cache import CachedExperts, DBCache, DBCacheSettings, MagCache
from fastvideo_core.wan import WanExperts

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("kind", list(VARIANTS))
STEPS = 6
CALL = Counter(view=1, copy_=1, full=1, split=1)
"""Of one call: the latents into the network's input, its timestep, and the branches' velocities taken apart."""
GUIDE = Counter(sub=1, mul=1, add=1)
DENOISED = Counter(mul=1, sub=1)
EULER = Counter(mul=1, add=1)
TIMES_PER_TOKEN = Counter(select=1, zero_=1, view=1, repeat=1)
HELD_FRAME = Counter(slice=2, expand=2, cat=2)
"""The given first frame, put back into the latents and into what is shown of them."""
VIEWS = {"view", "alias", "slice", "select", "expand", "split", "unsqueeze", "transpose", "permute"}


def request(mode: GuidanceMode, **changes: object) -> SamplingRequest:
    given = {"steps": STEPS, "solver": "euler", "shift": 5.0, "guidance_scale": 4.0, "seed": 1}
    given["guidance"] = GuidanceSettings(mode=mode)
    return SamplingRequest(**(given | changes))  # type: ignore[arg-type]


def operations_of(kind: str, asked: SamplingRequest, around: object = None) -> StepOperations:
    """Of a generation whose first entry is the preparation and the first step. around: what makes experts of plain ones."""
    variant = VARIANTS[kind]
    network = variant.network(0)
    plain = tiny.experts({"single": network}, variant.conditioning, variant.shape)
    experts = plain if around is None else around(plain, asked)  # type: ignore[operator]
    guidance = Guidance(asked.plan(), asked.guidance)
    with recorded(network) as (operations, next_step):
        for _ in generate(asked, experts, variant.conditioning, seeded_noise(variant.shape, 1), guidance):
            next_step()
    return operations


def without_views(counter: Counter[str]) -> Counter[str]:
    return Counter({name: count for name, count in counter.items() if name not in VIEWS})


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@every_variant
def test_a_step_does_what_is_listed_here_and_every_step_does_the_same(kind: str, mode: GuidanceMode) -> None:
    operations = operations_of(kind, request(mode))
    calls = 1 if mode == "batched" else 2
    given = VARIANTS[kind].conditioning.first_frame is not None
    listed = Counter({name: calls * count for name, count in CALL.items()}) + GUIDE + DENOISED + EULER
    if given:
        listed += HELD_FRAME + Counter({name: calls * count for name, count in TIMES_PER_TOKEN.items()})
    for step in range(1, STEPS):
        assert without_views(operations.outside[step]) == without_views(listed)
        assert operations.inside[step] == operations.inside[1]
        in_place = calls * (2 if given else 1)
        assert operations.allocated[step] == without_views(listed).total() - in_place


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@every_variant
def test_what_does_not_change_is_not_made_again(kind: str, mode: GuidanceMode) -> None:
    """In a step: the frequencies of the time embedding, once; in the first: the rope table, texts, keys and values too."""
    first, *others = operations_of(kind, request(mode)).inside[:STEPS]
    assert first["gelu"] > others[0]["gelu"] and first["stack"] == others[0]["stack"] + 1
    for operations in others:
        assert operations["arange"] == operations["sin"] == operations["cos"] == 1
        assert not {"zeros", "ones", "full", "empty", "randn", "scalar_tensor", "polar"} & operations.keys()


def magcached(experts: WanExperts, asked: SamplingRequest) -> CachedExperts:
    return CachedExperts(experts, asked.plan(), MagCache(asked.plan(), flat_table(asked.plan()), SETTINGS))


@pytest.mark.parametrize("around", [None, magcached], ids=["plain", "MagCache"])
@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m"])
@every_variant
def test_no_step_waits_for_the_device(kind: str, solver: str, around: object) -> None:
    operations = operations_of(kind, request("batched", solver=solver), around)
    steps = [*operations.inside[1:STEPS], *operations.outside[1:STEPS]]
    assert not [name for step in steps for name in step if name in WAITING]
    assert {"nonzero"} <= operations.outside[0].keys(), "the preparation, which may wait, is seen"


def test_dbcache_reads_one_number_in_each_call_where_it_decides() -> None:
    def dbcached(experts: WanExperts, asked: SamplingRequest) -> CachedExperts:
        settings = DBCacheSettings(threshold=1e-9, first_blocks=1, warmup_steps=2)
        return CachedExperts(experts, asked.plan(), DBCache(asked.plan(), settings))

    operations = operations_of("T2V", request("batched"), dbcached)
    waits = [sum(counter[name] for name in WAITING) for counter in operations.inside[:STEPS]]
    assert waits == [0, 0, 1, 1, 1, 1]
    assert not any(counter[name] for counter in operations.outside[1:STEPS] for name in WAITING)


@pytest.mark.parametrize("solver", ["unipc", "dpmpp_2m"])
def test_solvers_with_a_history_do_the_same_in_every_step_once_it_is_full(solver: str) -> None:
    operations = operations_of("T2V", request("batched", solver=solver))
    assert operations.outside[3] == operations.outside[2] and operations.allocated[3] == operations.allocated[2]


def test_a_wait_in_a_step_would_be_seen() -> None:
    network = torch.nn.Linear(2, 2)
    with recorded(network) as (operations, next_step):
        next_step()
        float(network(torch.zeros(1, 2)).sum())
        torch.tensor([0.0, 1.0]).nonzero()
    assert {"_local_scalar_dense", "nonzero"} <= operations.outside[1].keys()
    assert "addmm" in operations.inside[1]
