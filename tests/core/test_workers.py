"""Workers are real processes of Ray: what they make is what one process makes, and where one is gone it is told, and mended."""

import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from worker_cases import STEPS, TWO, assert_told_in_time, conditioning, demo, killed_when, made, process_of, request, size

from fastvideo_core import (
    AttentionSettings,
    CapacityError,
    DBCacheSettings,
    Layout,
    LoadError,
    MagCacheSettings,
    PhaseSettings,
    RequestError,
    SamplingRequest,
    StoppedError,
    WorkerError,
    Workers,
    apply_lora,
    with_cache_dit,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import SparseSchedule, VSASettings
from fastvideo_core.parallel import Entry, Group, Machines, Mesh, Ranks
from fastvideo_core.parallel.group import Stop
from fastvideo_core.parallel.ray_ranks import RayRank
from fastvideo_core.wan.loading import remove_loras
from fastvideo_core.wan.on_workers import ModelOnWorkers
from fastvideo_core.wan.rank import RankModel

CACHES: dict[str, Any] = {
    "none": None,
    "MagCache": with_magcache(MagCacheSettings(threshold=0.5, max_skips=1, retention=0.0)),
    "DBCache": with_dbcache(DBCacheSettings(threshold=0.9, first_blocks=1, warmup_steps=1)),
}
ACCELERATED: list[dict[str, Any]] = [
    {"attention": AttentionSettings("sdpa_flash", "sdpa")},
    {"sparse": SparseSchedule(settings=VSASettings(sparsity=0.5), kernel="gather"), "cache": CACHES["DBCache"]},
]


@pytest.fixture(scope="module")
def sharing() -> Iterator[ModelOnWorkers]:
    """Two ranks that share the tokens; Ray is there as long as their workers are not closed."""
    with Workers.local(workers=2, layout=Layout(ulysses=2)) as workers:
        yield workers.take(demo())


@pytest.fixture(scope="module")
def machines(sharing: ModelOnWorkers) -> Machines:
    """For others, one after the other."""
    sharing.ranks.group.end()
    found: Machines = sharing.owner.machines
    return found


@pytest.fixture(scope="module")
def model(machines: Machines) -> Iterator[ModelOnWorkers]:
    """A rank for each branch of guidance."""
    with Workers(machines, TWO) as workers:
        yield workers.take(demo())


@pytest.mark.parametrize("options", ACCELERATED, ids=" ".join)
def test_two_share_the_tokens(options: dict[str, Any], sharing: ModelOnWorkers) -> None:
    mine, other = (made(each, request(mode="sequential"), **options) for each in (sharing, demo()))
    assert torch.equal(mine.latents, other.latents)
    ours, theirs = mine.report(), other.report()
    assert [cache.phases for cache in ours.caches] == [cache.phases for cache in theirs.caches]
    assert [(row.part, row.backend) for row in ours.attention] == [(row.part, row.backend) for row in theirs.attention]
    assert [row.density for row in ours.sparse] == pytest.approx([row.density for row in theirs.sparse])


def test_a_rank_that_fails_alone_ends_the_others_and_is_named(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for none of them, where it would for hours. What all refuse leaves them. They end before others begin."""
    group = Group(partial(machines.start, TWO, Entry("one_rank_fails", "Failing", paths=(str(Path(__file__).parent),))))
    monkeypatch.setattr("fastvideo_core.parallel.group.GRACE_SECONDS", 1e6)
    try:
        assert group.ask("call", [("",), ("",)]) == [2.0, 2.0]
        before = group.names()
        with pytest.raises(RequestError, match=r"^too large$"):
            group.ask("call", [("RequestError",)] * 2)
        assert group.names() == before
        with pytest.raises(CapacityError, match=rf"^Rank 1 of 2{re.escape(before[1].removeprefix('rank 1 of 2'))}: too large$"):
            group.ask("call", [("CapacityError", 1)] * 2)
        assert not group.running and group.ask("call", [("",), ("",)]) == [2.0, 2.0]
    finally:
        group.end()


@pytest.mark.parametrize("name", CACHES)
def test_the_video_and_its_report_are_those_of_one_process(name: str, model: ModelOnWorkers) -> None:
    mine, other = (made(each, request(mode="auto"), cache=CACHES[name]) for each in (model, demo()))
    assert torch.equal(mine.latents, other.latents)
    ours, theirs = mine.report(), other.report()
    assert ours.device == "2 workers on cpu (cfg 2 x ulysses 1)"
    assert (ours.phases, ours.texts, ours.moves, ours.networks) == (theirs.phases, theirs.texts, theirs.moves, theirs.networks)
    assert [cache.phases for cache in ours.caches] == [cache.phases for cache in theirs.caches]
    assert all("S" in row.plan for cache in ours.caches for row in cache.phases)


def test_a_state_goes_on_in_workers_and_out_of_them(model: ModelOnWorkers) -> None:
    whole = made(demo())
    begun = model.generate(request(), conditioning(), size())
    next(begun)
    begun.close()
    for goes_on in (demo(), model):
        rest = goes_on.generate(request(), conditioning(), size(), state=begun.state())
        assert [step.index for step in rest] == [*range(1, STEPS)] and torch.equal(rest.latents, whole.latents)


@pytest.mark.parametrize(("moment", "rank"), [("call", 0), ("close", 1)])
def test_a_rank_that_is_killed_is_named_and_the_next_run_is_as_before(
    moment: str, rank: int, model: ModelOnWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All moments of both are tested from ComfyUI, in tests/nodes/test_workers_lost.py."""
    with (
        killed_when(moment, rank, monkeypatch) as killed,
        pytest.raises(WorkerError, match=rf"^Rank {rank} of 2 \(.* is gone .*, while it was asked to {moment}\. .* new ranks\.$"),
    ):
        made(model)
    assert_told_in_time(killed[0], f"rank {rank} in {moment}")
    assert not model.ranks.running, "the others ended too"
    assert torch.equal(made(model).latents, made(demo()).latents)


def test_an_interrupt_in_a_call_is_raised_and_the_next_run_is_equal(
    model: ModelOnWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(model)
    ask, calling = RayRank.ask, threading.Event()

    def asking(self: RayRank, number: int, method: str, given: Any) -> Any:
        answer = ask(self, number, method, given)
        if method == "call" and self.name.startswith("rank 1 "):
            calling.set()
        return answer

    def interrupt() -> None:
        calling.wait()
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RayRank, "ask", asking)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            made(model)
    assert torch.equal(made(model).latents, made(demo()).latents)


def test_a_call_that_is_stopped_ends_on_all_ranks(model: ModelOnWorkers) -> None:
    made(model)
    before = model.ranks.group.names()

    def enough() -> None:
        raise StoppedError("enough")

    generation = model.generate(request(), conditioning(), size())
    next(generation)
    given = [(torch.zeros(1, 16, 2, 4, 6), 0.9, ("positive", "negative"))] * 2
    with pytest.raises(StoppedError, match="enough"):
        model.ranks.group.ask("call", given, enough, stoppable=True)
    assert len(list(generation)) == STEPS - 1 and model.ranks.group.names() == before
    assert torch.equal(generation.latents, made(demo()).latents)


def test_many_runs_leave_nothing_behind(model: ModelOnWorkers) -> None:
    made(model)
    ranks = [psutil.Process(process_of(name)) for name in model.ranks.group.names()]
    counted = [(each.num_fds(), each.num_threads()) for each in (psutil.Process(), *ranks)]
    for _ in range(8):
        made(model)
    after = [(each.num_fds(), each.num_threads()) for each in (psutil.Process(), *ranks)]
    assert all(now <= then for pair in zip(after, counted, strict=True) for now, then in zip(*pair, strict=True))


def test_the_token_is_this_user_s_alone(model: ModelOnWorkers) -> None:
    """What asks for it: tests/server/test_workers.py."""
    made(model)
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mode": "sequential"}, "guidance mode sequential leaves one of them without work"),
        ({"gate": 0.5}, "gate 0.5 leaves one of them"),
    ],
)
def test_half_of_the_ranks_is_not_left_without_work(asked: dict[str, Any], words: str, model: ModelOnWorkers) -> None:
    with pytest.raises(RequestError, match=words):
        model.generate(request(**asked), conditioning(), size())


def test_what_cannot_work_elsewhere_is_refused(model: ModelOnWorkers, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"Use with_dbcache\(\)"):
        model.generate(request(), conditioning(), size(), cache=with_cache_dit())
    for asked, words in (({"workers": 3}, "is for 2 workers, and 3"), ({"gpus": 2, "workers": 2}, "Give one of them")):
        with pytest.raises(RequestError, match=words):
            Workers.local(**asked, layout=TWO)
    with pytest.raises(RequestError, match="Load it from files"):
        Workers.local(workers=2).take(replace(demo(), files={}))
    with pytest.raises(RequestError, match="Use one of 1, 2"):
        Workers.local(workers=3, layout=Layout(ulysses=3)).take(demo())


def test_a_file_with_other_weights_is_named_with_its_machine() -> None:
    one, model = Ranks(), demo()
    mesh = Mesh(Layout(), one, one, one, one)
    with pytest.raises(LoadError, match=r"On machine .*demo_wan_high_noise\.safetensors holds other weights than here"):
        RankModel(mesh, Stop(), "cpu", model.files, dict.fromkeys(model.files, "0"), False)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    generation = Workers.local(workers=2, layout=TWO).take(demo()).generate(request(), conditioning(), size())
    with pytest.raises(RequestError, match=r"pip install fastvideo-nodes\[cluster\]"):
        next(generation)


def test_a_lora_is_on_the_workers_networks_too(model: ModelOnWorkers) -> None:
    """The last one, for ranks keep it."""
    files = {expert: model.files[expert].path.with_name(f"demo_lora_{expert}.safetensors") for expert in model.transformers}
    plain, shared = made(demo()), Workers.local(workers=2).take(demo(), shard_weights=True)
    phases = [PhaseSettings(expert="high_noise", guidance_scale=3.0, until=0.0, loras={"demo_lora_high_noise": 0.5})]
    try:
        report = model.apply_lora("high_noise", files["high_noise"])
        assert report.used and torch.equal(made(model).latents, made(demo()).latents)
        assert not torch.equal(made(demo()).latents, plain.latents)
        with pytest.raises(RequestError, match=r"\(demo_lora_high_noise\), and ranks that share the weights have them fused"):
            shared.generate(SamplingRequest(steps=STEPS, shift=5.0, phases=phases), conditioning(), size())
        apply_lora(demo().transformers["low_noise"], files["low_noise"], 0.5)
        with pytest.raises(RequestError, match=r"of low_noise are demo_lora_low_noise 0\.5, and in the workers none"):
            made(model)
    finally:
        for network in demo().transformers.values():
            remove_loras(network)
