"""A generation that is stopped between two steps and goes on from its state: the same video, bit by bit."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lora_cases import saved
from state_cases import STEPS, THREE, generation, request, state_after, whole
from tiny_model import NETWORKS, model_of

from fastvideo_core import (
    DBCacheSettings,
    GenerationState,
    GuidanceSettings,
    MagCacheSettings,
    PhaseSettings,
    SamplingRequest,
    apply_lora,
    load_demo,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.report.step_times import StepKind, StepTimes

SOLVERS = ("euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64")
WAYS: dict[str, dict[str, Any]] = {
    "batched": {},
    "sequential": {"guidance": GuidanceSettings(mode="sequential")},
    "auto": {"guidance": GuidanceSettings(mode="auto")},
    "gate": {"guidance": GuidanceSettings(mode="batched", gate=0.4)},
    "without guidance": {"guidance_scale": 1.0},
}


def assert_resumes(kind: str, asked: SamplingRequest, folder: Path, **options: Any) -> None:
    """From the file of every state, each further step is that of the run without a stop."""
    latents, states = whole(kind, asked, **options)
    assert [state.step for state in states] == list(range(STEPS + 1))
    for state in states:
        kept = GenerationState.load(state.save(folder / "state.safetensors"))
        resumed = generation(kind, asked, state=kept, **options)
        steps = list(resumed)
        assert [step.index for step in steps] == list(range(state.step, STEPS))
        assert all(torch.equal(step.latents, latents[step.index]) for step in steps)
        assert torch.equal(resumed.latents, latents[-1]) and resumed.guidance.schedule == asked.plan()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_it_goes_on_from_every_step_as_if_nothing_had_been(solver: str, way: str, tmp_path: Path) -> None:
    assert_resumes("t2v", request(solver=solver, **WAYS[way]), tmp_path)


@pytest.mark.parametrize("gate", [1.0, 0.0])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "experts", [{"boundary": 0.875, "low_noise_guidance_scale": 2.0}, {"phases": THREE}], ids=["two", "three"]
)
def test_it_goes_on_within_and_between_phases(experts: dict[str, Any], solver: str, gate: float, tmp_path: Path) -> None:
    asked = request(solver=solver, guidance=GuidanceSettings(mode="batched", gate=gate), **experts)
    assert_resumes("t2v two experts", asked, tmp_path)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["ti2v", "i2v clip"])
def test_it_goes_on_with_a_given_frame_and_with_an_image(kind: str, solver: str, tmp_path: Path) -> None:
    assert_resumes(kind, request(solver=solver), tmp_path)


CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
import state_cases
from fastvideo_core import GenerationState
for solver in ("dmd", "unipc"):
    file = f"{sys.argv[1]}/{solver}.safetensors"
    request, state = state_cases.request(solver=solver, phases=state_cases.THREE), GenerationState.load(file)
    generation = state_cases.generation("t2v two experts", request, state=state)
    for step in generation:
        if step.index == 3:
            generation.state().save(file)
            print("saved", solver, flush=True)
"""


def test_a_process_that_was_killed_is_gone_on_from_in_another(tmp_path: Path) -> None:
    """In a solver that draws noise, and in one with a history, in whose steps it is killed."""
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    asked = {solver: request(solver=solver, phases=THREE) for solver in ("dmd", "unipc")}
    expected = {}
    for solver, each in asked.items():
        expected[solver], states = whole("t2v two experts", each)
        states[3].save(tmp_path / f"{solver}.safetensors")
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), str(here), str(here.parents[1])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in asked] == ["saved dmd\n", "saved unipc\n"]
        child.send_signal(signal.SIGKILL)
    assert {path.name for path in tmp_path.iterdir()} == {f"{solver}.safetensors" for solver in asked}
    for solver, each in asked.items():
        state = GenerationState.load(tmp_path / f"{solver}.safetensors")
        assert state.step == 4
        for step in generation("t2v two experts", each, state=state):
            assert torch.equal(step.latents, expected[solver][step.index])


def test_an_interrupt_in_a_step_leaves_the_state_of_the_step_before() -> None:
    asked = request(solver="unipc", guidance=GuidanceSettings(mode="batched", gate=0.4))
    latents, states = whole("t2v", asked)
    network = NETWORKS["t2v"]["single"]
    running = generation("t2v", asked)
    for _ in range(2):
        next(running)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    handle = network.blocks[1].register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(running)
    handle.remove()
    state = running.state()
    assert state.step == 2 and torch.equal(state.latents, states[2].latents)
    resumed = generation("t2v", asked, state=state)
    assert all(torch.equal(step.latents, latents[step.index]) for step in resumed)
    assert torch.equal(resumed.latents, latents[-1])


def test_a_state_is_not_changed_by_the_steps_after_it() -> None:
    running = generation("t2v", request(solver="unipc"))
    next(running)
    next(running)
    state = running.state()
    before = [tensor.clone() for tensor in (state.latents, *state.solver.values())]
    list(running)
    assert all(map(torch.equal, before, (state.latents, *state.solver.values())))


def test_a_phases_strengths_are_no_other_weights(tmp_path: Path) -> None:
    """Asked for in a phase in which the LoRA acts at another strength."""
    network = tiny.i2v_clip()
    apply_lora(network, saved("everything", tmp_path), 0.5)
    model = replace(model_of("i2v clip"), transformers={"single": network})
    phases = (
        PhaseSettings(expert="single", guidance_scale=3.0, until=0.93, loras={"everything": 1.5}),
        PhaseSettings(expert="single", guidance_scale=3.0),
    )
    latents, states = whole("i2v clip", request(phases=phases), model=model)
    for state in states:
        for step in generation("i2v clip", request(phases=phases), model=model, state=state):
            assert torch.equal(step.latents, latents[step.index])


def test_another_prompt_is_not_refused_and_noted() -> None:
    state = state_after(2)
    resumed = generation("t2v", request(), "a dog runs", state=state)
    list(resumed)
    assert "the conditioning is another one than that of the steps before" in resumed.report().notes
    same = generation("t2v", request(), state=state)
    assert not any("conditioning" in note for note in same.report().notes)


CACHES = {
    "MagCache": with_magcache(MagCacheSettings(threshold=0.3, max_skips=2, retention=0.0)),
    "DBCache": with_dbcache(DBCacheSettings(threshold=0.9, first_blocks=1, warmup_steps=1)),
}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_a_step_cache_begins_anew_and_computes_its_first_call(name: str, mode: str) -> None:
    model, cache = load_demo(), CACHES[name]
    size = model.video_size(width=64, height=64, frames=5)
    told = model.condition("a red circle moves to the left", "", size)
    asked = request(steps=12, guidance=GuidanceSettings(mode=mode))
    first = model.generate(asked, told, size, cache)
    for _ in range(5):
        next(first)
    first.close()
    resumed = model.generate(asked, told, size, cache, state=first.state())
    planned = resumed.plan()
    list(resumed)
    report = resumed.report()
    assert report.notes[0] == f"resumed at step 5: {name} began anew"
    assert "note: resumed at step 5" in report.text()
    plans = [row.plan for row in report.caches[0].phases]
    assert all(plan.startswith("-----C") and "S" in plan and len(plan) == 12 for plan in plans)
    if planned is not None:
        assert plans == [planned.phases[0].actions(branch) for branch in planned.phases[0].branches]
    counts = StepTimes.of([report]).counts
    assert sum(counts.values()) == 7
    skipped = plans[0].count("S")
    assert counts[StepKind("single", "SS")] == skipped and counts[StepKind("single", "CC")] == 7 - skipped


def test_the_report_of_a_resumed_run_tells_its_own_steps() -> None:
    state = state_after(3, "t2v two experts", request(phases=THREE))
    resumed = generation("t2v two experts", request(phases=THREE), state=state)
    assert resumed.report().step_seconds == ()
    list(resumed)
    report = resumed.report()
    assert (report.first_step, len(report.step_seconds)) == (3, 3)
    assert [row.calls for row in report.phases] == [{}, {"1": 1}, {"2": 2}]
    assert (report.networks, report.moves) == (2, 2)
    assert report.notes[0] == "resumed at step 3"
    assert StepTimes.of([report]).counts == {StepKind("high_noise", "C"): 1, StepKind("low_noise", "CC"): 2}
    assert json.loads(report.json())["first_step"] == 3


def test_a_resumed_run_does_not_load_what_it_does_not_need() -> None:
    state = state_after(5, "t2v two experts", request(phases=THREE))
    resumed = generation("t2v two experts", request(phases=THREE), state=state)
    with tiny.recorded_batches(NETWORKS["t2v two experts"]["high_noise"]) as batches:
        list(resumed)
    assert not batches and resumed.report().moves == 1


def test_after_the_last_step_nothing_is_left_to_do() -> None:
    state = state_after(STEPS)
    resumed = generation("t2v", request(), state=state)
    assert list(resumed) == [] and torch.equal(resumed.latents, state.latents)
    assert "0 steps unipc" in resumed.report().text()
