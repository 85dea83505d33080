"""Whole jobs on workers: each once, as they end, and what one of them meets is no other's."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from worker_cases import STEPS, conditioning, demo, family, left_of, process_of, request, runs, size

from fastvideo_core import Job, Outcome, RequestError, Step, StoppedError, WorkerError, Workers, generate_many
from fastvideo_core.__main__ import main
from fastvideo_core.wan.pooled import ModelPool

ROOT = Path(__file__).resolve().parents[2]
FAILING = """
from functools import partial
from pathlib import Path

import one_rank_fails
import pytest
from worker_cases import family

from fastvideo_core import Layout
from fastvideo_core.parallel import Entry, Group, Machines


@pytest.fixture(scope="module")
def group():
    machines, layout = Machines(2, gpus=False), Layout(cfg=2)
    entry = Entry("one_rank_fails", "Failing", paths=(str(Path(one_rank_fails.__file__).parent),))
    group = Group(partial(machines.start, layout, entry))
    yield group
    group.end()
    machines.leave()


def test_failing(group):
    group.ask("call", [("",)] * 2)
    Path("processes").write_text(" ".join(str(each.pid) for each in family()))
    1 / 0
"""
LONG = 12
"""Steps: more than wait for whoever is told of them."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers.local(workers=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def pool(workers: Workers) -> ModelPool:
    return workers.pool(demo())


def job(seed: int, steps: int = STEPS, **changes: Any) -> Job:
    asked = request(seed, steps, mode="batched")
    return Job(**({"request": asked, "conditioning": conditioning(), "size": size(), "name": f"j{seed}"} | changes))


def kill_workers(pool: ModelPool) -> None:
    """Those that have begun."""
    for name in [name for group in pool.pool.groups for name in group.names() if "process" in name]:
        with suppress(ProcessLookupError):  # it may have been killed before
            os.kill(process_of(name), signal.SIGKILL)


def assert_as_alone(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        alone = demo().generate(outcome.job.request, outcome.job.conditioning, outcome.job.size)
        list(alone)
        assert outcome.error is None and torch.equal(outcome.latents, alone.latents)
        assert outcome.report is not None and len(outcome.report.step_seconds) == outcome.job.request.steps


def test_each_job_is_made_once_and_one_that_cannot_be_fails_alone(pool: ModelPool) -> None:
    steps: list[tuple[str, int]] = []
    bad = job(9, request=replace(request(9), boundary=None))
    many = generate_many(pool, [job(1), bad, job(2), job(3)], each_step=lambda name, step: steps.append((name, step.index)))
    outcomes = {outcome.name: outcome for outcome in many}
    assert isinstance(outcomes.pop("j9").error, RequestError)
    assert sorted(outcomes) == ["j1", "j2", "j3"] and sorted(steps) == [
        (name, i) for name in sorted(outcomes) for i in range(STEPS)
    ]
    assert_as_alone(list(outcomes.values()))
    assert many.states() == {}
    assert all(group.running for group in pool.pool.groups), "both had work"


def test_one_job_is_cancelled_and_goes_on_later_where_it_was(pool: ModelPool) -> None:
    def each_step(name: str, step: Step) -> None:
        if name == "j2" and step.index == 0:
            many.cancel("j2")

    many = generate_many(pool, [job(1), job(2, LONG), job(3)], each_step=each_step)
    outcomes = {outcome.name: outcome for outcome in many}
    cancelled = outcomes.pop("j2")
    assert isinstance(cancelled.error, StoppedError)
    assert_as_alone(list(outcomes.values()))
    state = many.states()["j2"]
    assert 1 <= state.step < LONG
    (again,) = generate_many(pool, [job(2, LONG, state=state)])
    alone = demo().generate(again.job.request, again.job.conditioning, again.job.size)
    list(alone)
    assert torch.equal(again.latents, alone.latents)
    with pytest.raises(RequestError, match="There is no job 'x': there are j1, j2, j3"):
        many.cancel("x")


def test_what_was_not_ended_is_in_its_states(pool: ModelPool) -> None:
    many = generate_many(pool, [job(1, LONG), job(2, LONG), job(3)], each_step=lambda name, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(many)
    states = many.states()
    assert any(state.step for state in states.values()) and all(state.step < LONG for state in states.values())
    assert_as_alone([*generate_many(pool, [job(4)])])


def test_states_are_given_while_workers_wait_to_be_heard(pool: ModelPool) -> None:
    asked: list[set[str]] = []

    def each_step(name: str, step: Step) -> None:
        if len(asked) < 2:
            while not many._mapped._board.events.full():
                time.sleep(0.01)
            asked.append(set(many.states()))

    many = generate_many(pool, [job(1, LONG), job(2, LONG)], each_step=each_step)
    assert_as_alone(list(many))
    assert asked == [{"j1", "j2"}] * 2


def test_a_job_whose_worker_is_killed_is_made_again_by_the_next_one(pool: ModelPool) -> None:
    """The last tests with these workers are those that start new ones, which takes the most of their time."""
    steps: list[tuple[str, int]] = []

    def each_step(name: str, step: Step) -> None:
        steps.append((name, step.index))
        if len(steps) == 1:
            kill_workers(pool)

    outcomes = list(generate_many(pool, [job(1, LONG), job(2, LONG), job(3)], each_step=each_step))
    assert sorted(outcome.name for outcome in outcomes) == ["j1", "j2", "j3"]
    assert steps.count((steps[0][0], 0)) == 2, "from its beginning"
    assert_as_alone(outcomes)


def test_a_job_whose_workers_are_always_lost_is_told_and_no_other_waits(pool: ModelPool) -> None:
    def each_step(name: str, step: Step) -> None:
        kill_workers(pool)

    (outcome,) = generate_many(pool, [job(1, LONG)], each_step=each_step)
    assert isinstance(outcome.error, WorkerError) and "The worker (" in str(outcome.error)


def test_the_command_line_makes_videos_by_workers(workers: Workers, pool: ModelPool, tmp_path: Path) -> None:
    for group in pool.pool.groups:
        group.end()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moving left\na blue square, still\n", "utf-8")
    command = ["generate", "--demo", "t2v", "--prompts", str(prompts), "--steps", "3", "--frames", "5", "--width", "32"]
    assert main([*command, "--workers", "2", "--output", str(tmp_path / "out")]) == 0
    reports = [json.loads(file.read_text("utf-8")) for file in (tmp_path / "out").glob("*.json")]
    assert len(reports) == 2 == len(list((tmp_path / "out").glob("*.mp4")))
    assert {report["report"]["seed"] for report in reports} == {0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layout", "2x1"], "say how many with --workers"),
        (["--shard-weights"], "say how many with --workers"),
        (["--workers", "2", "--layout", "2x1", "--shard-weights"], "in the layout cfg 2 x ulysses 1 none do"),
        (["--workers", "2", "--layout", "2by1"], "write branches x ranks that share tokens, such as 2x4, or auto"),
        (["--workers", "2", "--layout", "2x2"], "is for 4 workers, and 2 were asked for"),
    ],
)
def test_arguments_that_contradict_each_other_are_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--demo", "t2v", "--prompt", "a", *arguments, "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_program_that_is_terminated(tmp_path: Path) -> None:
    """While its workers share tokens and weights. Of one that is killed: tests/server/test_workers.py."""
    command = ["generate", "--demo", "t2v", "--prompt", "a red circle", "--steps", "1000", "--workers", "2", "--shard-weights"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "fastvideo_core", *command, "--output", str(tmp_path / "out")]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        while "/1000" not in (line := program.stderr.readline()) or " 0/1000" in line:
            assert line or program.poll() is None
        theirs = family(program.pid)
        assert len([each for each in theirs if each.name().startswith("ray::_Host")]) == 2
        program.terminate()
    assert left_of(theirs) == []


def test_nothing_is_left_of_tests_that_fail(tmp_path: Path) -> None:
    """With ranks of a fixture in them."""
    (tmp_path / "test_failing.py").write_text(FAILING, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "core"))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_failing.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "ZeroDivisionError" in ended.stdout and "1 failed" in ended.stdout, ended.stdout
    theirs = [int(process) for process in (tmp_path / "processes").read_text().split()]
    assert len(theirs) > 3 and not any(psutil.pid_exists(each) and runs(psutil.Process(each)) for each in theirs)
