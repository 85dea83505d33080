"""Many videos on workers, one on each at a time: each is that of its single run, and what one meets is no other's."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from caching import cached as magcached
from caching import module_of, plans, put_table
from safetensors.torch import save_file
from sampling import conditions_of, latent_of
from tiny_wan import metadata, random_weights
from wan_files import cast
from worker_models import INSIDE, here, on_workers, ranks_of, with_lora, write_files

from fastvideo_core import PhaseSettings, RequestError, SamplingRequest, StoppedError, WorkerError

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")
pytestmark = pytest.mark.usefixtures("direct")

STEPS = 4


@pytest.fixture(scope="module")
def workers(comfy: Any) -> Iterator[Any]:
    """Two, for all tests: they take long to start."""
    write_files(comfy)
    brief = cast(random_weights("t2v", 0), torch.bfloat16)
    save_file(brief, comfy.model_folder("diffusion_models") / "heads_bf16.safetensors", metadata(heads=4))
    node = comfy.node_classes["FastVideoWorkers"]
    made = node.execute(count=2, device="CPU", layout={"layout": "whole videos"}, place={"place": "this machine"}).args[0]
    yield made
    made.close()


@pytest.fixture
def remote(comfy: Any, workers: Any) -> Callable[[str], Any]:
    return lambda name="heads_0": on_workers(comfy, workers, name)


def runs_of(host: Any, experts: Mapping[str, Any], count: int = 3, steps: int = STEPS) -> list[Any]:
    """Unequal ones."""
    positive, negative = conditions_of("t2v")
    until = (0.875, 0.0) if len(experts) == 2 else (0.0,)
    phases = tuple(PhaseSettings(expert=name, guidance_scale=3.0, until=to) for name, to in zip(experts, until, strict=True))
    queued = module_of(host, "native.queue").QueuedRun
    return [
        queued(
            [[text * (1 + number / 2), told] for text, told in positive], negative, latent_of("t2v"),
            SamplingRequest(steps=steps, shift=5.0, phases=phases, solver="unipc", seed=number),
        )
        for number in range(count)
    ]  # fmt: skip


EachStep = Callable[[int, int], object]
"""Is told of each step, with its run's number from 0."""


def many_of(host: Any, runs: Sequence[Any], each_step: EachStep = lambda run, step: None) -> Any:
    many = module_of(host, "native.many").ManyRuns(runs)

    for number, run in enumerate(runs):
        run.progress = Each(partial(each_step, number))
    return many


class Each:
    """As `Progress`."""

    def __init__(self, each_step: Callable[[int], object]) -> None:
        self.each_step = each_step

    def tell(self, text: str) -> None:
        return None

    def prepare(self, model: Any, steps: int) -> Any:
        return lambda step, *_: self.each_step(step)


def made(host: Any, experts: Mapping[str, Any], many: Any) -> list[Any]:
    """The runs, in the order in which they ended."""
    return list(module_of(host, "native.many").sample_many(experts, many))


def run_many(host: Any, experts: Mapping[str, Any], each_step: EachStep = lambda run, step: None, **asked: Any) -> list[Any]:
    """In their own order."""
    runs = runs_of(host, experts, **asked)
    ended = made(host, experts, many_of(host, runs, each_step))
    assert sorted(map(id, ended)) == sorted(map(id, runs)), "each once"
    return runs


def assert_equal(runs: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [run.error for run in runs] == [None] * len(expected)
    assert all(torch.equal(run.video["samples"], other.video["samples"]) for run, other in zip(runs, expected, strict=True))


def process_of(name: str) -> int:
    return int(re.findall(r"process (\d+)", name)[0])


def test_each_is_that_of_its_single_run_and_both_workers_have_work(comfy: Any, remote: Any, workers: Any) -> None:
    expected = run_many(comfy, {"single": here(comfy, "heads_0")}, count=4)
    runs = run_many(comfy, {"single": remote("heads_0")}, count=4)
    assert_equal(runs, expected)
    where = {note for run in runs for note in run.report.notes if "CPU" in note}
    assert where == {f"the single network was called {STEPS} times, in worker {n} of 2 (CPU)" for n in (1, 2)}


@pytest.mark.parametrize("kind", ["heads_bf16", "heads_fp8", "lora", "two experts", "MagCache", "BSA and folded text"])
def test_kinds_of_files_and_what_is_on_their_models(comfy: Any, remote: Any, kind: str) -> None:
    attached: dict[str, Callable[[Any], Any]] = {
        "lora": partial(with_lora, comfy), "MagCache": partial(magcached, comfy),
        "BSA and folded text": partial(INSIDE["BSA and folded text"], comfy),
    }  # fmt: skip

    def experts(load: Callable[[str], Any]) -> dict[str, Any]:
        if kind == "two experts":
            return {"high_noise": load("heads_0"), "low_noise": with_lora(comfy, load("heads_1"))}
        return {"single": attached.get(kind, lambda model: model)(load(kind if kind.startswith("heads") else "heads_0"))}

    put_table(comfy, here(comfy, "heads_0"))
    expected = run_many(comfy, experts(lambda name: here(comfy, name)), steps=8)
    runs = run_many(comfy, experts(remote), steps=8)
    assert_equal(runs, expected)
    assert [plans(run.report) for run in runs] == [plans(run.report) for run in expected]
    assert (kind == "MagCache") == any("S" in plan for plan in plans(runs[0].report).values())


def test_one_fails_alone_and_another_is_cancelled(comfy: Any, remote: Any) -> None:
    experts = {"single": remote("heads_0")}
    expected = run_many(comfy, experts, count=5)
    runs = runs_of(comfy, experts, count=5)
    runs[1].positive = [[text * torch.nan, told] for text, told in runs[1].positive]

    def each_step(run: int, step: int) -> None:
        if (run, step) == (2, 0):
            many.cancel(2)
            many.cancel(4)

    many = many_of(comfy, runs, each_step)
    assert len(made(comfy, experts, many)) == 5
    assert (
        "not finite" in str(runs[1].error) and isinstance(runs[2].error, StoppedError) and isinstance(runs[4].error, StoppedError)
    )
    assert_equal([runs[0], runs[3]], [expected[0], expected[3]])


def test_an_interrupt_stops_all_and_they_go_on_later(comfy: Any, remote: Any, workers: Any) -> None:
    from comfy import model_management

    experts, steps = {"single": remote("heads_0")}, []
    expected, before = run_many(comfy, experts, steps=8), ranks_of(workers)

    def each_step(run: int, step: int) -> None:
        steps.append((run, step))
        if len(steps) == 11:
            model_management.interrupt_current_processing()

    with pytest.raises(model_management.InterruptProcessingException):
        run_many(comfy, experts, each_step, steps=8)
    stopped = len(steps)
    runs = run_many(comfy, experts, each_step, steps=8)
    assert len(steps) <= 3 * 8 + 2 and stopped < 20, "at most a step of each worker is made again"
    assert_equal(runs, expected)
    assert ranks_of(workers) == before


def test_others_get_memory_when_no_video_is_at_work(comfy: Any, remote: Any, workers: Any) -> None:
    from comfy import model_management

    experts = {"single": remote("heads_0")}

    def asked() -> list[int]:
        return [worker.ranks._number for worker in workers.singly()]

    expected = run_many(comfy, experts, count=2)
    before = asked()
    assert_equal(run_many(comfy, experts, lambda run, step: model_management.unload_all_models(), count=2), expected)
    assert asked() == [number + STEPS for number in before]
    model_management.unload_all_models()
    assert all(now > number + STEPS for now, number in zip(asked(), before, strict=True)), "each was told"


def test_models_here_and_on_workers_are_not_mixed(comfy: Any, remote: Any) -> None:
    with pytest.raises(RequestError, match="not all on the same workers"):
        run_many(comfy, {"high_noise": here(comfy, "heads_0"), "low_noise": remote("heads_1")})


def test_a_lost_worker_s_video_goes_on_once_in_the_next_one(comfy: Any, remote: Any, workers: Any) -> None:
    """The first one's workers are killed always, the second one's once."""
    experts, steps, killed = {"single": remote("heads_0")}, [], []
    expected = run_many(comfy, experts, count=2)
    runs = runs_of(comfy, experts, count=2)

    def each_step(run: int, step: int) -> None:
        steps.append((run, step))
        if (run == 0 and len(killed) < 3) or (run == 1 and not steps.count((1, 1))):
            (mine,) = [one for one in workers.singly() if getattr(one.ranks.check, "args", ()) == (runs[run],)]
            killed.append(run)
            os.kill(process_of(mine.ranks.names()[0]), signal.SIGKILL)

    made(comfy, experts, many_of(comfy, runs, each_step))
    assert isinstance(runs[0].error, WorkerError) and "is gone" in str(runs[0].error)
    assert_equal(runs[1:], expected[1:])
    assert steps.count((1, 0)) == 1, "no step that was made is made again"
