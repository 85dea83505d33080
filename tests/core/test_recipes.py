"""The table of few-step recipes: its data, its closed forms, and runs beside a plain loop of each authors' rule."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import tiny
import torch
from torch import Tensor

from fastvideo_core import RECIPES, VARIANTS, PhaseSettings, Recipe, RequestError, SamplingRequest, recipe, seeded_noise
from fastvideo_core.guidance import Denoiser
from fastvideo_core.schedule import TIMESTEPS
from fastvideo_core.solvers import fresh_noise
from fastvideo_core.wan.recipe import evenly, fed, tan_grid, virtual_base, warped

every_recipe = pytest.mark.parametrize("row", RECIPES.values(), ids=list(RECIPES))
SEED = 5
TAN_GRID = tuple(math.tan(t) / (1 + math.tan(t)) for t in (1.5, 1.4, 1.0))


def runnable() -> list[Recipe]:
    return [row for row in RECIPES.values() if not row.has_base]


@every_recipe
def test_rows_hold_together(row: Recipe) -> None:
    assert row.title and row.source and row.levels.words and row.names
    assert set(row.networks) <= VARIANTS.keys()
    two = {VARIANTS[name].two_experts for name in row.networks}
    assert two == {len(row.experts) == 2}
    assert row.levels.sigmas[-1] == 0 and list(row.levels.sigmas) == sorted(row.levels.sigmas, reverse=True)
    assert sum(row.steps_of_phases()) == row.levels.steps and len(row.steps_of_phases()) == len(row.phases)
    assert row.guidance_scale == 1
    assert bool(row.sparse) == ("sparse attention" not in row.off) or row.levels.steps > 9


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("lightx2v_wan2.1", (1, 0.9375, 5 / 6, 0.625)),
        ("lightx2v_wan2.2", (1, 0.9375, 5 / 6, 0.625)),
        ("lightx2v_nvfp4_sparse_i2v", (1, 21 / 22, 0.875, 0.7)),
        ("lightx2v_flf2v", (1, 48 / 49, 16 / 17, 16 / 19)),
        ("lightning_t2v", (1, 0.9, 0.75, 0.5)),
        ("fastwan_2.1_1.3b", (1, 0.7567568, 0.5217391)),
        ("fastwan_qad_1.3b", (1, 0.7567568, 0.5217391)),
        ("fastwan_2.2_5b", (1, 0.7570978, 0.5215618)),
        ("fastwan_2.2_5b_warped", (1, 0.9396723, 0.8452073)),
        ("turbo_t2v", (80 / 81, *TAN_GRID)),
        ("rcm_t2v_120", (120 / 121, *TAN_GRID)),
        ("turbo_i2v", (200 / 201, *TAN_GRID)),
        ("turbo_i2v_ode", (200 / 201, *TAN_GRID)),
        ("causvid", (0.999, 0.934, 0.862, 0.756, 0.603, 0.410, 0.250, 0.140, 0.074)),
        ("self_forcing", (1, 0.9375, 5 / 6, 0.625)),
        ("fusionx_10", tuple(2 * u / (1 + u) for u in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1))),
        ("three_phases_1_3_4", (1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3)),
        ("three_phases_1_4_3", (1, 35 / 36, 0.9375, 25 / 28, 5 / 6, 0.75, 0.625, 5 / 12)),
    ],
)
def test_levels_are_those_of_the_authors(name: str, levels: tuple[float, ...]) -> None:
    assert recipe(name).levels.sigmas == pytest.approx((*levels, 0.0), abs=1e-6)


def test_closed_forms() -> None:
    assert evenly(4, 5.0).sigmas == pytest.approx([5 * u / (1 + 4 * u) for u in (1, 0.75, 0.5, 0.25, 0)], abs=1e-12)
    assert warped((1000, 500), 12.0).sigmas == pytest.approx([1, 6 / 6.5, 0], abs=1e-12)
    table = 8 * torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    table = table / (1 + table - table / 8)
    nearest = [table[(table - t / 1000).abs().argmin()].item() for t in (1000, 757, 522)]
    assert fed((1000, 757, 522), 8.0).sigmas == pytest.approx([*nearest, 0], abs=1e-12)
    angles = torch.tensor([torch.tensor(80.0, dtype=torch.float64).atan(), 1.5, 1.4, 1.0, 0], dtype=torch.float64)
    expected = angles.sin() / (angles.cos() + angles.sin())
    assert tan_grid(80.0).sigmas == pytest.approx(expected.tolist(), abs=1e-12)


def test_virtual_base_steps_end_where_the_others_begin() -> None:
    levels = virtual_base(8, 1, 20, 5.0)
    fine, coarse = evenly(24, 5.0).sigmas, evenly(8, 5.0).sigmas
    assert levels.sigmas == (*fine[:3], *coarse[1:]) and fine[3] == pytest.approx(coarse[1], abs=1e-12)
    again = virtual_base(8, 3, 20, 5.0)  # 8 of 3 go into no whole number of 20 steps, but of 24
    assert again.sigmas == (*fine[:9], *coarse[3:]) and fine[9] == pytest.approx(coarse[3], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("lightx2v_wan2.2", [2, 2]), ("lightx2v_flf2v", [2, 2]), ("turbo_i2v", [2, 2]), ("causal_wan_2.2", [4, 4]),
     ("three_phases_1_3_4", [1, 3, 4]), ("three_phases_1_4_3", [1, 4, 3]), ("triple_virtual_base", [3, 3, 4])],
)  # fmt: skip
def test_experts_change_where_their_authors_say(name: str, steps: list[int]) -> None:
    assert recipe(name).steps_of_phases() == steps


@contextmanager
def predicting(asked: SamplingRequest) -> Iterator[Callable[[Tensor, int], Tensor]]:
    """(latents, step) -> velocity, of tiny networks, in the phase of the step and without the engine's loop."""
    networks = networks_of(asked)
    schedule, experts = asked.plan(), tiny.experts(networks, tiny.conditioning())

    def velocity(latents: Tensor, step: int) -> Tensor:
        with experts.active(schedule.phase_of(step)) as denoiser:
            return one(denoiser, latents, schedule.sigmas[step])

    yield velocity


def one(denoiser: Denoiser, latents: Tensor, sigma: float) -> Tensor:
    return denoiser.predict(latents, sigma, ("positive",)).velocities[0]


def networks_of(asked: SamplingRequest) -> dict[str, object]:
    return {name: tiny.t2v(seed) for seed, name in enumerate(dict.fromkeys(p.expert for p in asked.settings))}


def ran(asked: SamplingRequest) -> list[Tensor]:
    return [step.latents for step in tiny.run(asked, networks_of(asked), tiny.conditioning())[0]]  # type: ignore[arg-type]


def test_turbodiffusion_s_ode_is_its_authors_loop() -> None:
    asked = recipe("turbo_i2v_ode").request(SEED)
    t = torch.tensor(asked.levels, dtype=torch.float64)
    with predicting(asked) as velocity:
        x = seeded_noise(tiny.SHAPE, SEED).double() * t[0]
        for i, latents in enumerate(ran(asked)):
            x = x - (t[i] - t[i + 1]) * velocity(x.float(), i).double()
            assert torch.equal(latents, x.float())


@pytest.mark.parametrize("name", ["turbo_t2v", "rcm_t2v_120", "turbo_i2v"])
def test_rcm_s_sde_is_its_authors_loop(name: str) -> None:
    asked = recipe(name).request(SEED)
    t, noise = torch.tensor(asked.levels, dtype=torch.float64), fresh_noise(SEED)
    with predicting(asked) as velocity:
        x = seeded_noise(tiny.SHAPE, SEED).double() * t[0]
        for i, latents in enumerate(ran(asked)):
            x0 = x - t[i] * velocity(x.float(), i).double()
            x = (1 - t[i + 1]) * x0 + (t[i + 1] * noise(x0) if t[i + 1] > 0 else 0)
            assert torch.equal(latents, x.float())


@pytest.mark.parametrize("name", [row.name for row in runnable() if row.solver == "euler"])
def test_lightx2v_s_rule_is_its_authors_loop(name: str) -> None:
    """x0 = x - s v, then x0 + s' v, which is Euler up to the order of additions; Euler itself is equal bit by bit."""
    asked = recipe(name).request(SEED)
    with predicting(asked) as velocity:
        theirs = euler = seeded_noise(tiny.SHAPE, SEED)
        for i, latents in enumerate(ran(asked)):
            sigma, after = asked.levels[i : i + 2]
            v = velocity(theirs, i)
            theirs = theirs - sigma * v + after * v
            euler = euler + (after - sigma) * velocity(euler, i)
            assert torch.equal(latents, euler)
            torch.testing.assert_close(latents, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["fastwan_2.1_1.3b", "fastwan_2.2_5b", "self_forcing", "causal_wan_2.2", "causvid"])
def test_the_dmd_rule_is_its_authors_loop(name: str) -> None:
    """x0 in float64, rounded, and noise added in float32: what ours keeps of the rounding is too little to see."""
    asked, noise = recipe(name).request(SEED), fresh_noise(SEED)
    with predicting(asked) as velocity:
        x = seeded_noise(tiny.SHAPE, SEED) * asked.levels[0]
        for i, latents in enumerate(ran(asked)):
            sigma, after = asked.levels[i : i + 2]
            x0 = (x.double() - sigma * velocity(x, i).double()).float()
            x = (1 - after) * x0 + after * noise(x0) if after else x0
            torch.testing.assert_close(latents, x, rtol=0, atol=2e-5)


def test_a_network_is_told_a_thousand_times_the_level() -> None:
    schedule = recipe("turbo_t2v").request().plan()
    assert [schedule.timestep(i) for i in range(4)] == [level * TIMESTEPS for level in recipe("turbo_t2v").levels.sigmas[:-1]]


def test_a_base_phase_leaves_the_lora_out() -> None:
    row = recipe("three_phases_1_4_3")
    with pytest.raises(RequestError, match=r"begins without the distillation LoRA, and none is named.*loras=\[\.\.\.\]"):
        row.request()
    asked = row.request(3, loras=["fast", "more"])
    assert asked.settings == (
        PhaseSettings(expert="high_noise", guidance_scale=3.5, until=0.985, loras={"fast": 0.0, "more": 0.0}),
        PhaseSettings(expert="high_noise", guidance_scale=1.0, until=0.8),
        PhaseSettings(expert="low_noise", guidance_scale=1.0),
    )
    assert [dict(part.loras) for part in asked.settings] == [{"fast": 0.0, "more": 0.0}, {}, {}]
    assert (asked.seed, asked.steps, asked.solver) == (3, 8, "euler")


def test_a_recipe_that_there_is_not_is_refused() -> None:
    with pytest.raises(RequestError, match=r"Recipe 'fast' is unknown\. Known: lightx2v_flf2v, "):
        recipe("fast")


@every_recipe
def test_the_text_tells_all(row: Recipe) -> None:
    text = row.text()
    for part in (row.name, row.title, row.source, row.solver, row.levels.words, row.note, row.engine_only):
        assert part in text
