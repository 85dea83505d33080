"""FastVideo Queue Sampler: lists in, each video as by itself, and each model loaded once for all."""

from typing import Any

import pytest
import torch
from caching import cached, plans, put_table
from phase_runs import RUN, kept, phases_of, run_phases
from sampling import conditions_of, latent_of

from fastvideo_core import RequestError, RunReport

pytestmark = pytest.mark.usefixtures("direct")

Given = tuple[Any, float, float]
SEEDS = (3, 4, 5)


def prompts(count: int = 3) -> dict[str, list[Any]]:
    """Unequal ones: each is scaled otherwise, and the last one has another size."""
    positive, negative = conditions_of("t2v")
    scaled = [[[text * (1 + number / 2), told] for text, told in positive] for number in range(count)]
    latents = [latent_of("t2v") for _ in range(count - 1)] + [latent_of("t2v", side=12)]
    return {"positive": scaled, "negative": [negative], "latent": latents, "seed": list(SEEDS[:count])}


def run_queue(host: Any, *given: Given, **changes: Any) -> tuple[list[torch.Tensor], list[RunReport], str]:
    settings = {name: [value] for name, value in RUN.items() if name != "seed"}
    inputs = {**settings, **prompts(), **changes}
    latents, reports, told = host.node_classes["FastVideoQueueSampler"].execute(phases=[phases_of(host, *given)], **inputs).args
    return [latent["samples"] for latent in latents], reports, told


def alone(host: Any, number: int, *given: Given, **changes: Any) -> tuple[torch.Tensor, RunReport]:
    rows = prompts()
    inputs = {name: values[number if len(values) > 1 else 0] for name, values in rows.items()}
    return run_phases(host, *given, **{**inputs, **changes})


@pytest.mark.parametrize("solver", ["euler", "unipc", "dmd", "euler_float64"])
def test_each_video_is_that_of_its_single_run(comfy: Any, load_wan: Any, solver: str) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    given = ((high, 0.95, 4.0), (high, 0.875, 1.0), (low, 0.0, 3.0))
    videos, reports, told = run_queue(comfy, *given, solver=[solver], gate=[0.5])
    assert len(videos) == len(reports) == 3
    first, *lines = told.splitlines()
    assert first.startswith("3 videos in ") and first.endswith(" s per step")
    assert lines == [f"{number}: {report.headline}" for number, report in enumerate(reports, start=1)]
    for number, (video, report) in enumerate(zip(videos, reports, strict=True)):
        single, other = alone(comfy, number, *given, solver=solver, gate=0.5)
        assert torch.equal(video, single)
        assert report.phases == other.phases and len(report.step_seconds) == 8 and report.first_step == 0
        assert report.networks == 2 and report.latent_shape == tuple(video.shape) and report.seed == SEEDS[number]
        assert report.notes == other.notes and report.guidance_mode == other.guidance_mode


def test_each_model_is_loaded_once_for_all(comfy: Any, load_wan: Any) -> None:
    from comfy import model_management

    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    for count in (1, 3):
        model_management.unload_all_models()
        _, reports, _ = run_queue(comfy, (high, 0.875, 4.0), (low, 0.0, 3.0), **prompts(count))
        assert [report.moves for report in reports] == [2] + [0] * (count - 1)


def test_step_caches_begin_anew_in_each_phase_as_in_a_single_run(comfy: Any, load_wan: Any) -> None:
    pair = load_wan("t2v", 0), load_wan("t2v", 1)
    put_table(comfy, *pair)
    high, low = (cached(comfy, model) for model in pair)
    given = ((high, 0.875, 4.0), (low, 0.0, 3.0))
    videos, reports, _ = run_queue(comfy, *given)
    for number, (video, report) in enumerate(zip(videos, reports, strict=True)):
        single, other = alone(comfy, number, *given)
        assert torch.equal(video, single)
        assert plans(report) == plans(other) and any("S" in plan for plan in plans(report).values())
        assert [cache.blocks_ran for cache in report.caches] == [cache.blocks_ran for cache in other.caches]


def test_a_model_comes_again_after_another(comfy: Any, load_wan: Any) -> None:
    a, b = load_wan("t2v", 0), load_wan("t2v", 1)
    given = ((a, 0.95, 4.0), (b, 0.7, 3.0), (a, 0.0, 2.0))
    videos, _, _ = run_queue(comfy, *given)
    assert all(torch.equal(video, alone(comfy, number, *given)[0]) for number, video in enumerate(videos))


def test_one_that_fails_is_named_and_stops_no_other(comfy: Any, load_wan: Any) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    given = ((high, 0.875, 4.0), (low, 0.0, 3.0))
    rows = prompts()
    rows["positive"][1] = [[rows["positive"][1][0][0] * torch.nan, {}]]
    videos, reports, told = run_queue(comfy, *given, **rows)
    assert len(videos) == len(reports) == 2
    assert torch.equal(videos[0], alone(comfy, 0, *given)[0]) and torch.equal(videos[1], alone(comfy, 2, *given)[0])
    assert told.splitlines()[0].endswith("; 1 failed") and told.splitlines()[2].startswith("2: failed: ") and "not finite" in told
    rows["positive"] = [rows["positive"][1]]
    with pytest.raises(Exception, match="not finite"):
        run_queue(comfy, *given, **rows)


def stopping_after(steps: int, error: BaseException) -> Any:
    """In the place of core's callback, in which it stops a cancelled prompt: a step, counted over all videos."""
    made = []

    def callback(*_: Any) -> None:
        made.append(None)
        if len(made) == steps:
            raise error

    return lambda *_: callback


@pytest.fixture
def cancel(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a queue, which is cancelled after so many steps."""
    from comfy.model_management import InterruptProcessingException

    def cancelled(stop: int, *given: Given, **changes: Any) -> None:
        with monkeypatch.context() as patch, pytest.raises(InterruptProcessingException):
            patch.setattr("latent_preview.prepare_callback", stopping_after(stop, InterruptProcessingException()))
            run_queue(comfy, *given, **changes)

    return cancelled


@pytest.mark.parametrize(("stop", "save"), [(2, "named"), (5, "named"), (13, "named"), (20, "named"), (2, ""), (20, "")])
def test_a_cancelled_queue_goes_on_where_it_was(comfy: Any, load_wan: Any, cancel: Any, stop: int, save: str) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    given, name = ((high, 0.875, 4.0), (low, 0.0, 3.0)), save or "cancelled_queue"
    folder = kept(comfy, name).parent
    cancel(stop, *given, save_state=[save])
    assert 1 <= len(list(folder.glob(f"{name}_*"))) <= 3
    videos, reports, _ = run_queue(comfy, *given, save_state=[save])
    assert sum(len(report.step_seconds) for report in reports) == 3 * 8 - stop, "no step is made twice"
    assert all(torch.equal(video, alone(comfy, number, *given)[0]) for number, video in enumerate(videos))
    assert not list(folder.glob(f"{name}_*"))


def test_of_queues_without_a_name_the_last_cancelled_one_is_kept(comfy: Any, load_wan: Any, cancel: Any) -> None:
    given, folder = ((load_wan(), 0.0, 4.0),), kept(comfy, "x").parent
    for seeds, stop in (([7, 8, 9], 12), ([17, 18, 19], 20)):
        cancel(stop, *given, seed=seeds)
        assert len(list(folder.glob("cancelled_queue_*"))) == -(-stop // 8)
    _, reports, _ = run_queue(comfy, *given, seed=[17, 18, 19])
    assert [len(report.step_seconds) for report in reports] == [0, 0, 4]
    assert not list(folder.glob("cancelled_queue_*"))


def test_what_cannot_be_is_said(comfy: Any, load_wan: Any) -> None:
    given = ((load_wan(), 0.0, 4.0),)
    with pytest.raises(RequestError, match="The steps input got a list of 2, and there is one for all videos"):
        run_queue(comfy, *given, steps=[4, 5])
    with pytest.raises(RequestError, match=r"unequal lengths: positive 3, negative 1, latent 3, seed 2\. Give each 3, or one"):
        run_queue(comfy, *given, seed=[1, 2])
    with pytest.raises(RequestError, match="The latent input got 3 and needs a connection"):
        run_queue(comfy, *given, latent=[3])
    with pytest.raises(RequestError, match=r"save_state is 'a/b': use letters"):
        run_queue(comfy, *given, save_state=["a/b"])
