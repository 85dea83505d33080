"""What becomes of a run on workers whose processes are killed, or which somebody interrupts: at each moment, and afterwards."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sampling import run_node
from test_compile import dbcached
from tiny_wan import metadata, random_weights
from worker_cases import assert_told_in_time, killed_when
from worker_models import here, on_workers, ranks_of, workers_of

from fastvideo_core import StoppedError, WorkerError
from fastvideo_core.parallel.ray_ranks import RayRank

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")
pytestmark = pytest.mark.usefixtures("direct")

LAYERS = {"shallow": 2, "deep": 100}
"""In the one with many a call is still at work when it is stopped."""


@pytest.fixture(scope="module")
def workers(comfy: Any) -> Iterator[Any]:
    for name, layers in LAYERS.items():
        weights = random_weights("t2v", 0, layers=layers)
        save_file(weights, comfy.model_folder("diffusion_models") / f"{name}.safetensors", metadata(heads=4))
    made = workers_of(comfy, 1, 2)
    yield made
    made.close()


@pytest.fixture
def run(comfy: Any, workers: Any) -> Callable[[], torch.Tensor]:
    """Loads the file in the workers, opens a step cache there, calls the network, and closes the cache."""
    return lambda: sampled(comfy, on_workers(comfy, workers, "shallow"))


@pytest.fixture
def expected(comfy: Any, workers: Any) -> torch.Tensor:
    """Of the same model here."""
    return sampled(comfy, here(comfy, "shallow"))


def sampled(host: Any, model: Any) -> torch.Tensor:
    return run_node(host, dbcached(host, model), steps=2)[0]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("moment", ["load", "predict", "close"])
def test_a_killed_rank_is_named_and_the_next_run_is_equal(
    moment: str, rank: int, workers: Any, run: Any, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        killed_when(moment, rank, monkeypatch) as killed,
        pytest.raises(WorkerError, match=rf"^Rank {rank} of 2 \(.* is gone .*, while it was asked to {moment}\. .* new ranks\.$"),
    ):
        run()
    assert_told_in_time(killed[0], f"rank {rank} in {moment}")
    assert ranks_of(workers) == []
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("moment", ["before", "predict", "between"])
def test_an_interrupt_in_a_run_leaves_the_workers(
    moment: str, comfy: Any, workers: Any, run: Any, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it starts, in a call, in which the ranks stop together before a block, and between two calls."""
    from comfy import model_management
    from comfy.patcher_extension import WrappersMP

    model = on_workers(comfy, workers, "deep" if moment == "predict" else "shallow")
    before, answers = ranks_of(workers), list["Future[Any]"]()

    def after_a_call(executor: Any, *args: Any, **kwargs: Any) -> Any:
        out = executor(*args, **kwargs)
        model_management.interrupt_current_processing()
        return out

    with monkeypatch.context() as patch, pytest.raises(model_management.InterruptProcessingException):
        if moment == "before":
            model_management.interrupt_current_processing()
        elif moment == "between":
            model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "interrupting", after_a_call)
        else:
            answers = interrupted_when(moment, patch)
        sampled(comfy, model)
    assert all(isinstance(answer.exception(), StoppedError) for answer in answers), "it did not come to the last block"
    assert ranks_of(workers) == before
    assert torch.equal(run(), expected)


def test_what_ends_as_it_loads_or_starts_is_told_and_the_next_run_is_equal(
    workers: Any, run: Any, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: interrupts, which can stop neither between two blocks, and ranks that are killed before they are
    there, of which it is not known which was which."""
    from comfy import model_management

    for moment in ("load", "start"):
        with monkeypatch.context() as patch, pytest.raises(model_management.InterruptProcessingException):
            interrupted_when(moment, patch)
            run()
        assert ranks_of(workers) == []
    for rank in (0, 1):
        with (
            killed_when("start", rank, monkeypatch) as killed,
            pytest.raises(WorkerError, match=r"^Rank [01] of 2 is gone .*, while it was started\. .* new ranks\.$"),
        ):
            run()
        assert_told_in_time(killed[0], f"rank {rank} at its start")
        assert ranks_of(workers) == []
    assert torch.equal(run(), expected)


def interrupted_when(method: str, patch: pytest.MonkeyPatch) -> list["Future[Any]"]:
    """ComfyUI's interrupt comes as all ranks have been asked for a method; "start": as they begin. Their answers."""
    from comfy import model_management

    ask, begin, answers = RayRank.ask, RayRank.begin, list["Future[Any]"]()

    def asked(name: str, answer: "Future[Any]") -> "Future[Any]":
        if name == method:
            answers.append(answer)
            if len(answers) == 2:
                model_management.interrupt_current_processing()
        return answer

    patch.setattr(RayRank, "ask", lambda rank, number, name, given: asked(name, ask(rank, number, name, given)))
    patch.setattr(RayRank, "begin", lambda rank: asked("start", begin(rank)))
    return answers
