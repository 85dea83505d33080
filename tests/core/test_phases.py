"""A generation cut into phases by a list: which expert works where, and that a cut by itself changes nothing."""

from collections.abc import Mapping
from typing import Any

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fastvideo_core import (
    CapacityError,
    Guidance,
    GuidanceSettings,
    PhaseSettings,
    RequestError,
    SamplingRequest,
    generate,
    guide,
    plan,
    plan_phases,
    seeded_noise,
    shifted_sigmas,
)
from fastvideo_core.wan import WanExperts

SOLVERS = ("euler", "unipc", "dpmpp_2m", "dmd")
every_solver = pytest.mark.parametrize("solver", SOLVERS)
CPU, META = torch.device("cpu"), torch.device("meta")


def part(expert: str, until: float = 0.0, scale: float = 3.0, **loras: float) -> PhaseSettings:
    return PhaseSettings(expert=expert, guidance_scale=scale, until=until, loras=loras)


def request(*phases: PhaseSettings, gate: float = 1.0, **changes: Any) -> SamplingRequest:
    settings = GuidanceSettings(mode="batched", gate=gate)
    return SamplingRequest(**({"steps": 6, "shift": 5.0, "seed": 11, "phases": phases, "guidance": settings} | changes))


def two() -> dict[str, WanTransformer3DModel]:
    return {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}


def latents(asked: SamplingRequest, networks: Mapping[str, WanTransformer3DModel]) -> list[Tensor]:
    return [step.latents for step in tiny.run(asked, networks, tiny.conditioning())[0]]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def cut(sigmas: tuple[float, ...], *phases: PhaseSettings) -> list[tuple[str, int, int]]:
    return [(phase.expert, phase.start, phase.stop) for phase in plan_phases(sigmas, phases).phases]


# levels of 6 steps at shift 5: 1, 0.9615, 0.9091, 0.8333, 0.7143, 0.5, 0
LEVELS = shifted_sigmas(6, 5.0)


@every_solver
def test_two_phases_of_a_list_are_those_of_a_boundary(solver: str) -> None:
    listed = request(part("high_noise", 0.875, 3.5), part("low_noise", scale=1.0), solver=solver)
    bounded = request(
        phases=None, guidance_scale=3.5, low_noise_guidance_scale=1.0, boundary=0.875, solver=solver,
        guidance=listed.guidance,
    )  # fmt: skip
    assert listed.settings == bounded.settings and listed.plan() == bounded.plan()
    assert same(latents(listed, two()), latents(bounded, two()))


@pytest.mark.parametrize(("until", "first"), [
    (0.93, 2),  # between two levels
    (LEVELS[2], 3),  # on one: the step that begins on it is the upper phase's
    (LEVELS[2] * (1 + 1e-7), 3),  # and where it is off by rounding
    (0.9999, 1),
    (0.001, 6),
])  # fmt: skip
def test_a_threshold_cuts_where_a_boundary_would(until: float, first: int) -> None:
    if first == 6:
        with pytest.raises(RequestError, match=r"Phase 2 of 2 \(b from noise level 0.001 to 0\) has no step"):
            cut(LEVELS, part("a", until), part("b"))
        return
    assert cut(LEVELS, part("a", until), part("b")) == [("a", 0, first), ("b", first, 6)]
    assert plan(LEVELS, 3.0, None, until).phases[0].stop == first


def test_levels_that_begin_below_a_threshold_leave_its_phase_without_steps() -> None:
    words = (
        r"Phase 1 of 2 \(a from noise level 1 to 0.9\) has no step: the 3 steps begin on 0.8 to 0.4, next to it on 0.8. "
        "Move its until or that of the phase before, use more steps or another shift, or leave the phase out."
    )
    with pytest.raises(RequestError, match=words):
        plan_phases((0.8, 0.6, 0.4, 0.0), [part("a", 0.9), part("b")])


def test_a_phase_between_two_levels_is_refused_with_both() -> None:
    words = r"Phase 2 of 3 \(b from noise level 0.95 to 0.92\) has no step: .* next to it on 0.9615 and 0.9091"
    with pytest.raises(RequestError, match=words):
        plan_phases(LEVELS, [part("a", 0.95), part("b", 0.92), part("c")])


def test_a_part_of_a_run_leaves_phases_without_steps_out() -> None:
    schedule = plan_phases(LEVELS[3:], [part("a", 0.95), part("b", 0.6), part("c")], partial=True)
    assert [(phase.expert, phase.start, phase.stop) for phase in schedule.phases] == [("b", 0, 2), ("c", 2, 3)]


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ((), "give one PhaseSettings"),
        (("high_noise",), "give one PhaseSettings"),
        ((part("a", 0.5),), r"The last phase works until noise level 0\.5, and none below\. Set its until to 0"),
        ((part("a", 0.5), part("b", 0.5), part("c")), r"Phase 1 works until noise level 0\.5 and phase 2 until 0\.5"),
        ((part("a", 0.5), part("b", 0.8), part("c")), "each with a lower until"),
        ((part("a"), part("b")), "Phase 1 works until noise level 0 and phase 2 until 0"),
    ],
)
def test_phases_that_are_not_in_order_are_refused_by_request_and_plan(phases: Any, words: str) -> None:
    for asked in (lambda: request(*phases), lambda: plan_phases(LEVELS, phases)):
        with pytest.raises(RequestError, match=words):
            asked()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expert": 3}, "expert is 3: give the name"),
        ({"guidance_scale": None}, "guidance_scale is None: it must be a finite number"),
        ({"until": 1.0}, r"until is 1\.0: it is the noise level"),
        ({"until": -0.1}, r"until is -0\.1"),
        ({"until": float("nan")}, "until is nan"),
        ({"loras": ["style"]}, "loras is .*: give {name of an applied LoRA"),
        ({"loras": {"style": float("inf")}}, "The strength of LoRA style is inf: a finite number"),
    ],
)
def test_a_phase_that_is_none_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        PhaseSettings(**({"expert": "single", "guidance_scale": 3.0} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phases": None}, "There is neither a guidance_scale nor phases"),
        ({"guidance_scale": 3.0}, r"phases are given and guidance_scale is 3\.0: each phase has its own"),
        ({"boundary": 0.9, "low_noise_guidance_scale": 1.0}, r"low_noise_guidance_scale is 1\.0 and boundary is 0\.9"),
    ],
)
def test_there_is_one_way_to_ask_at_a_time(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        request(**({"phases": (part("single"),)} | changes))


def test_a_phase_keeps_its_own_copy_of_strengths_and_is_hashed_without_them() -> None:
    given = {"style": 0.5}
    phase = PhaseSettings(expert="single", guidance_scale=1.0, loras=given)
    given["style"] = 2.0
    assert phase.loras == {"style": 0.5} and hash(phase) == hash(part("single", scale=1.0))
    assert phase != part("single", scale=1.0)
    assert plan_phases(LEVELS, [phase]).phases[0].loras == {"style": 0.5}


@every_solver
def test_a_cut_inside_one_expert_changes_not_a_bit(solver: str) -> None:
    """Two and three phases of equal settings, also next to each other: neither solver nor noise begins anew."""
    networks = {"single": tiny.t2v()}
    whole = latents(request(part("single"), solver=solver), networks)
    for untils in ((0.9,), (0.95, 0.6)):
        asked = request(*(part("single", until) for until in untils), part("single"), solver=solver)
        assert len(asked.plan().phases) == len(untils) + 1
        assert same(latents(asked, networks), whole)


def test_three_phases_are_a_plain_loop_over_them() -> None:
    """Base with guidance, the same without it, then another network."""
    networks, condition = two(), tiny.conditioning()
    asked = request(part("high_noise", 0.93, 3.5), part("high_noise", 0.75, 1.0), part("low_noise", scale=2.0), solver="euler")
    experts, x, expected = tiny.experts(networks, condition), seeded_noise(tiny.SHAPE, asked.seed), []
    plans = [("high_noise", 3.5), ("high_noise", 3.5), *[("high_noise", 1.0)] * 2, ("low_noise", 2.0), ("low_noise", 2.0)]
    for (name, scale), phase, sigma, target in zip(
        plans, (asked.plan().phase_of(i) for i in range(6)), LEVELS, LEVELS[1:], strict=False
    ):
        with experts.active(phase) as denoiser:
            assert denoiser.transformer is networks[name]
            if scale == 1.0:
                (velocity,) = denoiser.predict(x, sigma, ("positive",)).velocities
            else:
                velocity = guide(*denoiser.predict(x, sigma, ("positive", "negative")).velocities, scale)
        x = x + (target - sigma) * velocity
        expected.append(x)
    assert same(latents(asked, networks), expected)
    plain = seeded_noise(tiny.SHAPE, asked.seed)
    for (name, scale), sigma, target in zip(plans, LEVELS, LEVELS[1:], strict=False):
        positive, negative = (raw(networks[name], plain, sigma, condition.text(branch)) for branch in ("positive", "negative"))
        plain = plain + (target - sigma) * guide(positive, negative, scale)
    assert tiny.relative_error(expected[-1], plain) < 1e-5


@torch.no_grad()
def raw(network: WanTransformer3DModel, x: Tensor, sigma: float, text: Tensor) -> Tensor:
    """Diffusers' own call."""
    velocity: Tensor = network(
        hidden_states=x, timestep=torch.tensor([1000 * sigma]), encoder_hidden_states=text, return_dict=False
    )[0]
    return velocity


def test_the_gate_begins_anew_in_each_phase() -> None:
    """Behind the gate each phase runs both branches once, for the difference is a phase's own."""
    asked = request(part("single", 0.93), part("single", 0.75), part("single"), gate=0.0)
    _, guidance = tiny.run(asked, {"single": tiny.t2v()}, tiny.conditioning())
    assert [len(call.branches) for call in guidance.calls] == [2, 1, 2, 1, 2, 1]


def test_experts_have_any_names_and_the_unused_ones_never_work() -> None:
    networks = {"base": tiny.t2v(1), "not asked for": tiny.t2v(3), "distilled": tiny.t2v(2)}
    asked = request(part("base", 0.875, 3.5), part("distilled", scale=1.0))
    with tiny.recorded_batches(networks["not asked for"]) as batches:
        found = latents(asked, networks)
    pair = request(part("high_noise", 0.875, 3.5), part("low_noise", scale=1.0))
    assert not batches and same(found, latents(pair, two()))
    with pytest.raises(RequestError, match=r"asks for the experts base, distilled; the model has high_noise, low_noise"):
        latents(asked, two())


def offloading(asked: SamplingRequest, networks: Mapping[str, WanTransformer3DModel]) -> tuple[WanExperts, Any]:
    """Weights go to "meta" when they leave the device, so that their place can be told."""
    experts = WanExperts(networks, tiny.conditioning(), tiny.SHAPE, CPU, META)
    guidance = Guidance(asked.plan(), asked.guidance)
    return experts, generate(asked, experts, tiny.conditioning(), seeded_noise(tiny.SHAPE, asked.seed), guidance)


def places(experts: WanExperts) -> list[str]:
    return [network.device.type for network in experts.transformers.values()]


THREE = (part("high_noise", 0.93, 3.5), part("high_noise", 0.75, 1.0), part("low_noise", scale=2.0))


@pytest.mark.parametrize(
    ("phases", "networks", "moves"),
    [
        ((part("high_noise"),), 1, 1),
        (THREE, 2, 2),
        ((part("high_noise", 0.93), part("low_noise", 0.75), part("high_noise")), 2, 3),
    ],
)
def test_the_phases_in_a_row_of_one_expert_are_one_loading(phases: tuple[PhaseSettings, ...], networks: int, moves: int) -> None:
    asked = request(*phases)
    experts = tiny.experts(two(), tiny.conditioning())
    noise = seeded_noise(tiny.SHAPE, 1)
    assert len(list(generate(asked, experts, tiny.conditioning(), noise, Guidance(asked.plan(), asked.guidance)))) == 6
    assert (len(experts.moves.networks), experts.moves.moves) == (networks, moves)


@pytest.mark.parametrize("taken", [1, 2, 3, 4, 5, 6])
def test_between_phases_weights_are_on_one_device_and_are_back_on_interrupt(taken: int) -> None:
    experts, steps = offloading(request(*THREE), two())
    for _ in range(taken):
        next(steps)
    assert places(experts) == (["cpu", "cpu"] if taken <= 4 else ["meta", "cpu"])  # the second has not been moved before
    steps.close()
    assert places(experts) == (["meta", "cpu"] if taken <= 4 else ["meta", "meta"])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("step", [2, 4], ids=["second phase of one expert", "first of another"])
def test_an_error_in_a_phases_first_step_leaves_nothing_on_the_device(failure: type[BaseException], step: int) -> None:
    networks = two()
    kinds = [type(module) for network in networks.values() for module in network.modules()]
    experts, steps = offloading(request(*THREE), networks)
    for _ in range(step):
        next(steps)

    def fail(*_: object) -> None:
        raise failure("CUDA out of memory.")

    networks["high_noise" if step == 2 else "low_noise"].blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(CapacityError if failure is torch.OutOfMemoryError else failure):
        next(steps)
    assert places(experts) == (["meta", "cpu"] if step == 2 else ["meta", "meta"])
    assert [type(module) for network in networks.values() for module in network.modules()] == kinds


def test_weights_that_do_not_fit_between_phases_are_put_back() -> None:
    from test_out_of_memory import filled

    networks = two()
    filled(networks["low_noise"])
    experts, steps = offloading(request(*THREE), networks)
    for _ in range(4):
        next(steps)
    with pytest.raises(CapacityError, match="do not fit"):
        next(steps)
    assert places(experts) == ["meta", "meta"]
