"""FastVideo Phase and FastVideo Phase Sampler: any number of phases in one run, against the other nodes and chains of core's."""

from typing import Any

import pytest
import torch
from phase_runs import RUN, chained, phases_of, run_phases, with_lora
from sampling import (
    SETTINGS,
    conditions_of,
    core_guider,
    latent_of,
    relative_error,
    run_guider,
    run_node,
    shifted,
    sigmas_of,
)

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

SOLVERS = ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v"])
def test_two_phases_are_two_models_with_a_boundary(comfy: Any, load_wan: Any, kind: str, solver: str) -> None:
    high, low = load_wan(kind, 0), load_wan(kind, 1)
    ours, report = run_phases(comfy, (high, 0.875, 4.0), (low, 0.0, 3.0), kind=kind, solver=solver)
    theirs, other = run_node(comfy, high, kind, low, solver=solver)
    assert torch.equal(ours, theirs)
    assert report.phases == other.phases and [phase.expert for phase in report.phases] == ["high_noise", "low_noise"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_model_in_several_phases_is_one_run(comfy: Any, load_wan: Any, solver: str) -> None:
    model = load_wan()
    ours, report = run_phases(comfy, (model, 0.9, 4.0), (model, 0.5, 4.0), (model, 0.0, 4.0), solver=solver)
    assert torch.equal(ours, run_node(comfy, model, solver=solver)[0])
    assert [phase.expert for phase in report.phases] == ["single"] * 3
    assert report.networks == 1 and report.moves <= 1


def test_three_phases_are_three_chained_ksamplers(comfy: Any, load_wan: Any) -> None:
    """The field's cure for slow motion: base with guidance, with a distillation LoRA at scale 1, the low-noise expert."""
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    fast = with_lora(comfy, high)
    ours, report = run_phases(comfy, (high, 0.95, 4.0), (fast, 0.75, 1.0), (low, 0.0, 1.0))
    steps = [phase.steps for phase in report.phases]
    assert [phase.expert for phase in report.phases] == ["high_noise", "high_noise_patched", "low_noise"]
    assert [phase.guidance_scale for phase in report.phases] == [4.0, 1.0, 1.0]
    first, second = steps[0], steps[0] + steps[1]
    chain = chained((high, 0, first, 4.0), (fast, first, second, 1.0), (low, second, 8, 1.0))
    assert relative_error(ours, chain) < 1e-5
    assert report.networks == 2 and report.moves <= 3
    plain, _ = run_phases(comfy, (high, 0.95, 4.0), (high, 0.75, 1.0), (low, 0.0, 1.0))
    assert relative_error(ours, plain) > 1e-3  # the LoRA acts


def test_a_model_comes_again_after_another(comfy: Any, load_wan: Any) -> None:
    """Weights of the first one come back; a chain of core loads them anew."""
    a, b = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, report = run_phases(comfy, (a, 0.95, 4.0), (b, 0.7, 3.0), (a, 0.0, 2.0))
    first, second = report.phases[0].steps, report.phases[0].steps + report.phases[1].steps
    assert relative_error(ours, chained((a, 0, first, 4.0), (b, first, second, 3.0), (a, second, 8, 2.0))) < 1e-5
    assert [phase.expert for phase in report.phases] == ["high_noise", "low_noise", "high_noise"]


def test_a_model_and_its_patching_take_turns(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    fast = with_lora(comfy, model)
    ours, report = run_phases(comfy, (model, 0.95, 4.0), (fast, 0.7, 1.0), (model, 0.0, 2.0))
    first, second = report.phases[0].steps, report.phases[0].steps + report.phases[1].steps
    assert relative_error(ours, chained((model, 0, first, 4.0), (fast, first, second, 1.0), (model, second, 8, 2.0))) < 1e-5
    assert [phase.expert for phase in report.phases] == ["single", "single_patched", "single"] and report.networks == 1


def test_a_lora_of_strength_0_is_the_model(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    ours, _ = run_phases(comfy, (with_lora(comfy, model, 0.0), 0.7, 4.0), (model, 0.0, 4.0))
    assert torch.equal(ours, run_node(comfy, model)[0])


@pytest.mark.parametrize(
    ("until", "first_steps"),
    [(0.97, 2), (float(sigmas_of()[2]), 3), (0.93, 3), (float(sigmas_of()[7]), 8 - 0)],
    ids=["between", "equal", "below", "last"],
)
def test_a_step_belongs_to_the_phase_of_its_level(comfy: Any, load_wan: Any, until: float, first_steps: int) -> None:
    model = load_wan()
    given = ((model, until, 4.0), (model, 0.0, 4.0))
    if first_steps == 8:
        with pytest.raises(RequestError, match=r"Phase 2 of 2 .* has no step"):
            run_phases(comfy, *given)
        return
    _, report = run_phases(comfy, *given)
    assert [phase.steps for phase in report.phases] == [first_steps, 8 - first_steps]


def test_each_phase_has_its_own_gate_difference(comfy: Any, load_wan: Any) -> None:
    """Behind the gate a phase's first step runs both branches."""
    model = load_wan()
    _, report = run_phases(comfy, (model, 0.9, 4.0), (model, 0.6, 3.0), (model, 0.0, 2.0), gate=0.0)
    assert [phase.reused_negative for phase in report.phases] == [phase.steps - 1 for phase in report.phases]


def test_the_guider_takes_phases(comfy: Any, load_wan: Any) -> None:
    """Under core's samplers, as a chain of core's guiders."""
    models = [shifted(load_wan("t2v", seed), 5.0) for seed in (0, 1)]
    positive, negative = conditions_of("t2v")
    widgets = {name: SETTINGS[name] for name in (
        "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale",
    )}  # fmt: skip
    node = comfy.node_classes["FastVideoGuider"]
    phases = phases_of(comfy, (models[0], 0.95, 4.0), (models[1], 0.7, 3.0), (models[0], 0.0, 1.0))
    guider = node.execute(phases=phases, positive=positive, negative=negative, **widgets).args[0]
    ours = run_guider(guider, "euler", sigmas_of())
    sigmas, latent, start = sigmas_of(), latent_of("t2v"), 0
    for phase, model, scale in zip(guider.report.phases, (models[0], models[1], models[0]), (4.0, 3.0, 1.0), strict=True):
        part = sigmas[start : start + phase.steps + 1]
        samples = run_guider(core_guider(model, cfg=scale), "euler", part, seed=None if start else 3, latent=latent)
        latent, start = {"samples": samples}, start + phase.steps
    assert relative_error(ours, samples) < 1e-5


@pytest.mark.parametrize(
    ("connected", "words"),
    [
        (("model", "phases"), r"phases and model are connected: phases bring their models\. Disconnect one"),
        (("model", "low_noise_model", "phases"), "phases and model and low_noise_model are connected"),
        (("low_noise_model",), "The model input is missing: connect a Wan model to it, or FastVideo Phase to phases"),
        ((), "The model input is missing"),
    ],
)
def test_the_guider_says_what_is_connected_wrongly(comfy: Any, load_wan: Any, connected: tuple[str, ...], words: str) -> None:
    positive, negative = conditions_of("t2v")
    model = load_wan()
    known = {"model": model, "low_noise_model": model, "phases": phases_of(comfy, (model, 0.0, 4.0))}
    widgets = {name: SETTINGS[name] for name in (
        "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale",
    )}  # fmt: skip
    with pytest.raises(RequestError, match=words):
        comfy.node_classes["FastVideoGuider"].execute(
            positive=positive, negative=negative, **widgets, **{name: known[name] for name in connected}
        )


def test_what_cannot_be_is_said(comfy: Any, load_wan: Any) -> None:
    model, other = load_wan(), load_wan("i2v")
    with pytest.raises(RequestError, match=r"until is 0\.9 and the phase before works until 0\.9: each phase goes on below"):
        phases_of(comfy, (model, 0.9, 4.0), (model, 0.9, 1.0))
    with pytest.raises(RequestError, match=r"The two experts differ: .* with 16 .* the model of phase 2 is WAN21 with 36"):
        phases_of(comfy, (model, 0.9, 4.0), (other, 0.0, 1.0))
    with pytest.raises(RequestError, match=r"The last phase works until noise level 0\.5, and none below\. Set its until to 0"):
        run_phases(comfy, (model, 0.9, 4.0), (model, 0.5, 1.0))
    with pytest.raises(RequestError, match=r"Phase 1 of 2 .* has no step"):
        run_phases(comfy, (model, 0.9, 4.0), (model, 0.0, 1.0), sigmas=torch.tensor([0.8, 0.4, 0.0]))
    with pytest.raises(RequestError, match="The phases input got 3 and needs a connection"):
        comfy.node_classes["FastVideoPhaseSampler"].execute(
            phases=3, positive=[], negative=[], latent=latent_of("t2v"), **RUN
        )
