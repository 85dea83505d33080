"""The state of a run on the canvas: kept after each phase and where it ends early, and gone on from as if nothing had been."""

from typing import Any

import pytest
import torch
from caching import cached, put_table
from phase_runs import RUN, Given, kept, run_phases, with_lora
from sampling import conditions_of, latent_of, run_node
from torch import Tensor

from fastvideo_core import GenerationState, LoadError, RequestError

pytestmark = pytest.mark.usefixtures("direct")

SOLVERS = ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"]


class Stopped(BaseException):
    """As ComfyUI's interrupt, which is no Exception either."""


def stopping(model: Any, step: int) -> Any:
    """The MODEL with a wrapper that stops the run in that step of its network's calls."""
    from comfy.patcher_extension import WrappersMP

    calls: list[float] = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        level = float(timestep.flatten()[0])
        if level not in calls:
            calls.append(level)
        if len(calls) > step:
            raise Stopped
        return executor(x, timestep, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "stop", wrapper)
    return clone


@pytest.mark.parametrize(
    ("solver", "step", "gate"),  # each solver at each step, each of both with and without the gate
    [(solver, step, (1.0, 0.5)[(number + step) % 2]) for number, solver in enumerate(SOLVERS) for step in range(1, 8)],
)
def test_an_interrupted_run_goes_on_bit_by_bit(comfy: Any, load_wan: Any, solver: str, step: int, gate: float) -> None:
    model = load_wan()
    whole, _ = run_node(comfy, model, solver=solver, gate=gate)
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, step), solver=solver, gate=gate, save_state="broken_off")
    assert GenerationState.load(kept(comfy, "broken_off")).step == step
    resumed, report = run_node(comfy, model, solver=solver, gate=gate, resume_state="broken_off.safetensors")
    assert torch.equal(resumed, whole)
    assert len(report.step_seconds) == 8 - step and report.first_step == step
    assert [note for note in report.notes if note == f"resumed at step {step}"]


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_conditions_and_given_frames_go_on(comfy: Any, load_wan: Any, kind: str) -> None:
    model = load_wan(kind)
    whole, _ = run_node(comfy, model, kind)
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, 3), kind, save_state="conditions")
    assert torch.equal(run_node(comfy, model, kind, resume_state="conditions.safetensors")[0], whole)


def three(host: Any, load_wan: Any) -> tuple[Given, Given, Given]:
    high = load_wan("t2v", 0)
    return (high, 0.95, 4.0), (with_lora(host, high), 0.75, 1.0), (load_wan("t2v", 1), 0.0, 1.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("done", [1, 2])
def test_a_phase_runs_on_its_own_and_the_others_later(comfy: Any, load_wan: Any, done: int, solver: str) -> None:
    given = three(comfy, load_wan)
    whole, plain = run_phases(comfy, *given, solver=solver)
    first, early = run_phases(comfy, *given, solver=solver, stop_after_phase=done, save_state="part")
    steps = sum(phase.steps for phase in plain.phases[:done])
    assert len(early.step_seconds) == steps and first.isfinite().all() and not torch.equal(first, whole)
    assert [note for note in early.notes if note.startswith(f"stopped after {steps} of 8 steps")]
    rest, report = run_phases(comfy, *given, solver=solver, resume_state="part.safetensors")
    assert torch.equal(rest, whole)
    assert report.first_step == steps and report.moves <= 3 - done


def test_a_state_is_kept_after_each_phase(comfy: Any, load_wan: Any) -> None:
    """A process that is killed loses the phase at work, no more."""
    given = three(comfy, load_wan)
    whole, report = run_phases(comfy, *given)
    high, fast, low = given
    with pytest.raises(Stopped):
        run_phases(comfy, high, fast, (stopping(low[0], 1), *low[1:]), save_state="killed")
    assert GenerationState.load(kept(comfy, "killed")).step == sum(phase.steps for phase in report.phases[:2]) + 1
    assert torch.equal(run_phases(comfy, *given, resume_state="killed.safetensors")[0], whole)


def test_a_step_cache_begins_anew_and_the_report_says_so(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    put_table(comfy, model)
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, 4), save_state="cached")
    _, report = run_node(comfy, cached(comfy, model), resume_state="cached.safetensors")
    assert [note for note in report.notes if note == "resumed at step 4: MagCache began anew"]
    (row,) = [row for row in report.caches[0].phases if row.branch == "positive"]
    assert row.plan.startswith("----C") and "S" in row.plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed is 3 in the state and 4 in the request"),
        ({"steps": 9}, "steps is 8 in the state and 9 in the request"),
        ({"shift": 3.0}, "sigmas"),
        ({"solver": "unipc"}, "solver is euler in the state and unipc in the request"),
        ({"guidance_scale": 2.0}, "guidance_scale is 4"),
        ({"latent": latent_of("t2v", side=6)}, "latent_shape"),
        ({"gate": 0.5}, "guidance gate is 1"),
        ({"add_noise": "disable"}, "add_noise is enable in the state and disable in the request"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_request_is_refused_by_name(comfy: Any, load_wan: Any, change: dict[str, Any], words: str) -> None:
    model = load_wan()
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, 2), save_state="request")
    with pytest.raises(RequestError, match=words):
        run_node(comfy, model, resume_state="request.safetensors", **change)


def test_other_weights_are_refused_by_name(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, 2), save_state="weights")
    with pytest.raises(RequestError, match=r"weights single file is .* in the state and .* in the model"):
        run_node(comfy, load_wan("t2v", 1), resume_state="weights.safetensors")
    with pytest.raises(RequestError, match=r"weights single patches is none in the state and .* in the model"):
        run_node(comfy, with_lora(comfy, model), resume_state="weights.safetensors")


def test_a_lora_of_another_strength_is_refused(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    with pytest.raises(Stopped):
        run_node(comfy, stopping(with_lora(comfy, model, 0.5), 2), save_state="lora")
    resumed, _ = run_node(comfy, with_lora(comfy, model, 0.5), resume_state="lora.safetensors")
    assert torch.equal(resumed, run_node(comfy, with_lora(comfy, model, 0.5))[0])
    with pytest.raises(RequestError, match=r"weights single patches"):
        run_node(comfy, with_lora(comfy, model, 0.6), resume_state="lora.safetensors")


def test_another_conditioning_is_noted(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    with pytest.raises(Stopped):
        run_node(comfy, stopping(model, 2), save_state="prompt")
    positive, negative = conditions_of("t2v")
    _, report = run_node(comfy, model, resume_state="prompt.safetensors", positive=negative, negative=positive)
    assert [note for note in report.notes if "the conditioning is another one than that of the steps before" in note]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"save_state": "../elsewhere"}, r"save_state is '\.\./elsewhere': use letters"),
        ({"save_state": "a/b"}, "save_state is 'a/b': use letters"),
        ({"save_state": ".hidden"}, r"save_state is '\.hidden': use letters"),
        ({"stop_after_phase": 1}, "stop_after_phase is 1 and save_state is empty"),
        ({"resume_state": "nothing.safetensors"}, "The resume_state input got 'nothing.safetensors'"),
        ({"resume_state": "../../secret.safetensors"}, "The resume_state input got"),
    ],
)
def test_what_cannot_be_is_said(comfy: Any, load_wan: Any, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        run_phases(comfy, (load_wan(), 0.0, 4.0), **inputs)


def test_a_phase_that_is_over_is_no_place_to_stop_at(comfy: Any, load_wan: Any) -> None:
    given = three(comfy, load_wan)
    run_phases(comfy, *given, stop_after_phase=2, save_state="over")
    for phase in (1, 2):
        with pytest.raises(RequestError, match=rf"stop_after_phase is {phase} and over.safetensors is the state after 6 of 8"):
            run_phases(comfy, *given, stop_after_phase=phase, resume_state="over.safetensors", save_state="over")
    _, report = run_phases(comfy, *given, stop_after_phase=3, resume_state="over.safetensors", save_state="over")
    assert len(report.step_seconds) == 2


def test_a_broken_file_is_said(comfy: Any, load_wan: Any) -> None:
    file = kept(comfy, "torn")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(LoadError, match=r"torn\.safetensors is no state of a generation"):
        run_node(comfy, load_wan(), resume_state="torn.safetensors")


def test_nothing_is_kept_unasked(comfy: Any, load_wan: Any) -> None:
    before = sorted(kept(comfy, "x").parent.glob("*"))
    with pytest.raises(Stopped):
        run_node(comfy, stopping(load_wan(), 2))
    with pytest.raises(Stopped):
        run_node(comfy, stopping(load_wan(), 0), save_state="no_step_was_made")
    assert sorted(kept(comfy, "x").parent.glob("*")) == before


def test_a_state_that_was_saved_anew_is_another_input(comfy: Any, load_wan: Any) -> None:
    """ComfyUI keeps a node's outputs for equal inputs."""
    node = comfy.node_classes["FastVideoPhaseSampler"]
    assert node.fingerprint_inputs(resume_state="none") == 0
    versions = []
    for seed in (1, 2):
        run_phases(comfy, *three(comfy, load_wan), seed=seed, stop_after_phase=1, save_state="again")
        versions.append(node.fingerprint_inputs(**RUN, resume_state="again.safetensors"))
    assert versions[0] != versions[1] != 0
