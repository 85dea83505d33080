"""Many generations of which some fail, or all are stopped: what is lost, and what goes on."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from many_cases import PAIR, TWO, alone, assert_as_alone, job
from state_cases import request
from tiny_model import model_of
from torch import nn

from fastvideo_core import (
    Conditioning,
    Generation,
    GenerationState,
    Job,
    ManyGenerations,
    NumericsError,
    Outcome,
    Step,
    WanModel,
    generate_many,
)


def bad_jobs() -> dict[str, Job]:
    good = job(PAIR, 0, request(**TWO))
    told = good.conditioning
    wrong = Conditioning(positive=torch.zeros(1, 512, 7), negative=torch.zeros(1, 512, 7))
    return {
        "another width": replace(good, conditioning=wrong, name="another width"),
        "no negative": replace(good, conditioning=replace(told, negative=None), name="no negative"),
        "not finite": replace(good, conditioning=replace(told, positive=told.positive * torch.nan), name="not finite"),
        "no such expert": replace(good, request=request(), name="no such expert"),
    }


@pytest.mark.parametrize("bad", bad_jobs())
def test_a_job_that_fails_is_named_and_stops_no_other(bad: str) -> None:
    model, jobs = model_of(PAIR), [job(PAIR, 0, request(**TWO)), bad_jobs()[bad], job(PAIR, 2, request(**TWO))]
    outcomes = {outcome.name: outcome for outcome in generate_many(model, jobs)}
    failed = outcomes.pop(bad)
    assert failed.error is not None and failed.latents is None and failed.report is None and failed.job is jobs[1]
    assert isinstance(failed.error, NumericsError) == (bad == "not finite")
    assert list(outcomes) == ["1", "3"]
    assert_as_alone(model, list(outcomes.values()))


@pytest.mark.parametrize("expert", ["high_noise", "low_noise"])
def test_a_job_that_is_too_large_fails_alone_and_leaves_nothing_in_memory(expert: str) -> None:
    model, jobs = model_of(PAIR), [job(PAIR, number, request(**TWO)) for number in range(3)]
    hurt = jobs[1].size.latent_shape(16)

    def full(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs["hidden_states"].shape[2:] == hurt[2:]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    hook = model.transformers[expert].register_forward_pre_hook(full, with_kwargs=True)
    gc.disable()
    try:
        outcomes = {outcome.name: outcome for outcome in generate_many(model, jobs)}
        assert [name for name, outcome in outcomes.items() if outcome.error is not None] == ["2"]
        assert "do not fit into the memory" in str(outcomes["2"].error)
        assert not [each for each in gc.get_objects() if type(each) is Generation]
    finally:
        gc.enable()
        hook.remove()
    assert_as_alone(model, [outcome for outcome in outcomes.values() if outcome.error is None])


def gone_on(model: WanModel, jobs: list[Job], many: ManyGenerations, before: list[Outcome]) -> list[Outcome]:
    """All outcomes, those before an end among them."""
    states = many.states()
    ended = {outcome.name for outcome in before}
    assert not ended & set(states)
    left = [replace(each, state=states.get(each.name)) for each in jobs if each.name not in ended]
    return [*before, *generate_many(model, left)]


@pytest.mark.parametrize("stop", range(1, 13))
def test_an_interrupt_after_any_step_loses_nothing(stop: int) -> None:
    model, made = model_of(PAIR), []
    jobs = [job(PAIR, number, request(steps=4, **TWO), name=f"job {number}") for number in range(3)]

    def interrupt(name: str, step: Step) -> None:
        made.append((name, step.index))
        if len(made) == stop:
            raise KeyboardInterrupt

    many, outcomes = generate_many(model, jobs, each_step=interrupt), []
    with pytest.raises(KeyboardInterrupt):
        outcomes.extend(many)
    assert list(many) == [] and len(set(made)) == stop
    states = many.states()
    assert sum(state.step for state in states.values()) + 4 * len(outcomes) == stop
    assert_as_alone(model, gone_on(model, jobs, many, outcomes))


def test_closing_it_between_two_outcomes_keeps_the_states_of_the_rest(tmp_path: Path) -> None:
    model, jobs = model_of(PAIR), [job(PAIR, number, request(**TWO), name=str(number)) for number in range(3)]
    many = generate_many(model, jobs)
    first = next(many)
    many.close()
    many.close()
    assert list(many) == [] and set(many.states()) == {"1", "2"}
    kept = {name: GenerationState.load(state.save(tmp_path / name)) for name, state in many.states().items()}
    resumed = generate_many(model, [replace(each, state=kept[each.name]) for each in jobs[1:]])
    outcomes = list(resumed)
    assert resumed.loadings == 1, "the second expert alone is left"
    assert all(outcome.report is not None and outcome.report.first_step == 3 for outcome in outcomes)
    assert_as_alone(model, [first, *outcomes])


def test_one_that_was_left_leaves_nothing_on_the_networks() -> None:
    model = model_of(PAIR)
    marks = {name: set(vars(network)) for name, network in model.transformers.items()}
    gc.disable()
    try:
        for _ in generate_many(model, [job(PAIR, number, request(**TWO)) for number in range(2)]):
            break
        assert {name: set(vars(network)) for name, network in model.transformers.items()} == marks
    finally:
        gc.enable()


def test_a_state_after_the_last_step_is_an_outcome_without_any_loading() -> None:
    model, whole = model_of(PAIR), job(PAIR, 0, request(**TWO))
    single = alone(model, whole)
    many = generate_many(model, [replace(whole, state=single.state())])
    (outcome,) = many
    assert many.loadings == 0 and torch.equal(outcome.latents, single.latents)
