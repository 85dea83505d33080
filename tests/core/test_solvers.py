"""Each solver against diffusers' scheduler on the same noise levels, against closed forms, and against a flow whose exact
solution is known.

Tolerances are relative to the largest value. Both sides compute in float32; diffusers keeps sigmas in float32 (6e-8) and puts
sigma = 1 back by 1e-6 for UniPC, which bounds what can agree.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from tiny import normal
from torch import Tensor

from fastvideo_core import RequestError, Solver, SolverName, make_solver, seeded_noise, shifted_sigmas
from fastvideo_core.schedule import check_sigmas

SHAPE = (2, 4, 3, 4, 6)
SCHEDULES = [(1, 5.0), (2, 5.0), (3, 8.0), (4, 5.0), (8, 3.0), (20, 8.0), (40, 12.0), (50, 1.0)]


def curved_velocity(latents: Tensor, sigma: float) -> Tensor:
    """A smooth velocity that is linear in nothing."""
    return torch.tanh(latents * normal(SHAPE, 9)) + sigma * latents.cos()


def trajectory(solver: Solver, sigmas: tuple[float, ...], latents: Tensor) -> list[Tensor]:
    steps = []
    for i, sigma in enumerate(sigmas[:-1]):
        latents = solver.step(curved_velocity(latents, sigma), i, latents)
        steps.append(latents)
    return steps


def assert_same_trajectory(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        error = float((mine - other).abs().max() / other.abs().max())
        assert error <= tolerance, f"step {i}: {error:.2e}"


def scheduler_trajectory(scheduler: UniPCMultistepScheduler, sigmas: tuple[float, ...], latents: Tensor) -> list[Tensor]:
    steps = []
    for sigma, timestep in zip(sigmas, scheduler.timesteps, strict=False):
        latents = scheduler.step(curved_velocity(latents, sigma), timestep, latents).prev_sample
        steps.append(latents)
    return steps


@pytest.mark.parametrize(("steps", "shift"), SCHEDULES)
def test_unipc_equals_diffusers_step_by_step(steps: int, shift: float) -> None:
    sigmas, start = shifted_sigmas(steps, shift), normal(SHAPE, 1)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(sigmas=np.array(sigmas[:-1]))
    theirs = scheduler_trajectory(scheduler, sigmas, start)
    assert_same_trajectory(trajectory(make_solver("unipc", sigmas, 0), sigmas, start), theirs, tolerance=5e-6)


@pytest.mark.parametrize(("steps", "shift"), SCHEDULES)
def test_euler_equals_diffusers_step_by_step(steps: int, shift: float) -> None:
    sigmas, start = shifted_sigmas(steps, shift), normal(SHAPE, 2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=list(sigmas[:-1]))
    theirs = scheduler_trajectory(scheduler, sigmas, start)
    assert_same_trajectory(trajectory(make_solver("euler", sigmas, 0), sigmas, start), theirs, tolerance=1e-6)


def gaussian_flow(sigma: float, mean: float, std: float) -> tuple[float, float]:
    """(mean, standard deviation) of x = (1 - sigma) * x0 + sigma * noise for x0 ~ N(mean, std^2)."""
    return (1 - sigma) * mean, math.hypot((1 - sigma) * std, sigma)


def exact_velocity(latents: Tensor, sigma: float, mean: float, std: float) -> Tensor:
    """E[noise - x0 | x] of that flow: both are jointly normal with x, so the expectation is linear in x."""
    centre, spread = gaussian_flow(sigma, mean, std)
    return -mean + (sigma - (1 - sigma) * std**2) / spread**2 * (latents - centre)


def error_on_gaussian_flow(name: SolverName, steps: int) -> float:
    # The flow's ODE carries each quantile of x at one level to the same quantile at every other. In float64, and between 0.99
    # and 0.05, where lambda is finite: at the very ends every solver takes a first-order step.
    mean, std, first, last = 0.7, 0.4, 0.99, 0.05
    sigmas = tuple(first + (last - first) * i / steps for i in range(steps + 1))
    quantile = normal(SHAPE, 3).double()
    starts, ends = gaussian_flow(first, mean, std), gaussian_flow(last, mean, std)
    solver, latents = make_solver(name, sigmas, 0), starts[0] + starts[1] * quantile
    for i, sigma in enumerate(sigmas[:-1]):
        latents = solver.step(exact_velocity(latents, sigma, mean, std), i, latents)
    return float((latents - ends[0] - ends[1] * quantile).abs().max())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpmpp_2m", 2), ("unipc", 2)])
def test_error_on_a_gaussian_flow_falls_with_the_solvers_order(name: SolverName, order: int) -> None:
    errors = [error_on_gaussian_flow(name, steps) for steps in (80, 160, 320)]
    observed = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(observed) > order - 0.25


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_a_constant_x0_is_reached_exactly(name: SolverName) -> None:
    # x0 constant: x = (1 - sigma) * x0 + sigma * noise is a straight line with velocity noise - x0.
    video, noise = normal(SHAPE, 4), normal(SHAPE, 5)
    sigmas = shifted_sigmas(7, 5.0)
    solver, latents = make_solver(name, sigmas, 0), noise
    for i, sigma in enumerate(sigmas[:-1]):
        latents = solver.step((latents - video) / sigma, i, latents)
        if not name.startswith("dmd"):  # which goes to another noise each time
            torch.testing.assert_close(latents, (1 - sigmas[i + 1]) * video + sigmas[i + 1] * noise, rtol=0, atol=1e-5)
    torch.testing.assert_close(latents, video, rtol=0, atol=1e-6)


def test_dpmpp_2m_is_the_published_rule_where_x0_is_linear_in_lambda() -> None:
    # With lambda = -log(sigma), h = lambda' - lambda and x0 = a + b * lambda, the two last x0 give the slope b exactly, and the
    # rule reads x' = sigma'/sigma * x + (1 - e^-h) * (x0 + b * h / 2) (Lu et al. 2022, algorithm 2).
    a, b = normal(SHAPE, 6), normal(SHAPE, 7)
    sigmas = (0.9, 0.6, 0.45, 0.2)
    solver, latents = make_solver("dpmpp_2m", sigmas, 0), normal(SHAPE, 8)
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        video = a + b * -math.log(sigma)
        h = math.log(sigma / target)
        slope = b * h / 2 if i else 0.0
        expected = target / sigma * latents - math.expm1(-h) * (video + slope)
        latents = solver.step((latents - video) / sigma, i, latents)
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_a_schedule_that_stops_before_0_keeps_the_noise_of_its_last_level(name: SolverName) -> None:
    video, noise, sigmas = normal(SHAPE, 4), normal(SHAPE, 5), (1.0, 0.8, 0.5, 0.3)
    solver, latents = make_solver(name, sigmas, 0), noise
    for i, sigma in enumerate(sigmas[:-1]):
        latents = solver.step((latents - video) / sigma, i, latents)
    torch.testing.assert_close(latents, 0.7 * video + 0.3 * noise, rtol=0, atol=1e-5)


def dmd_latents(seed: int, sigmas: tuple[float, ...]) -> list[Tensor]:
    return trajectory(make_solver("dmd", sigmas, seed), sigmas, seeded_noise(SHAPE, seed))


def test_dmd_ends_in_x0_and_renoises_it_before() -> None:
    sigmas = (1.0, 0.75, 0.4, 0.0)
    start = seeded_noise(SHAPE, 3)
    first, second, last = dmd_latents(3, sigmas)
    video = start - 1.0 * curved_velocity(start, 1.0)
    fresh = (first - 0.25 * video) / 0.75
    assert abs(float(fresh.mean())) < 0.1
    assert float(fresh.std()) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(last, second - 0.4 * curved_velocity(second, 0.4))


def test_dmd_draws_new_noise_in_each_step_that_is_never_the_initial_one() -> None:
    zero, start = torch.zeros(SHAPE), seeded_noise(SHAPE, 3)
    solver = make_solver("dmd", (1.0, 0.5, 0.25, 0.0), 3)
    first = solver.step(zero, 0, zero) / 0.5  # x0 = 0: only the noise is left
    second = solver.step(zero, 1, zero) / 0.25
    pairs = torch.stack([start.flatten(), first.flatten(), second.flatten()])
    off_diagonal = torch.corrcoef(pairs) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.15  # 576 values: three standard errors are 0.125


def test_dmd_is_set_by_its_seed_alone() -> None:
    sigmas = (1.0, 0.75, 0.4, 0.0)
    again, other = dmd_latents(3, sigmas), dmd_latents(4, sigmas)
    torch.rand(5)  # the global generator plays no part
    assert all(torch.equal(a, b) for a, b in zip(dmd_latents(3, sigmas), again, strict=True))
    assert not torch.equal(again[-1], other[-1])
    assert dmd_latents(2**64 - 1, sigmas)[-1].isfinite().all()


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_latents_stay_float32(name: SolverName) -> None:
    sigmas = shifted_sigmas(4, 5.0)
    assert all(x.dtype == torch.float32 for x in trajectory(make_solver(name, sigmas, 0), sigmas, normal(SHAPE, 1)))


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"Solver 'heun' is unknown. Known: euler, unipc, .*, dmd_float64\."):
        make_solver("heun", (1.0, 0.0), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m"])
@pytest.mark.parametrize(
    "sigmas", [(1.0, 1 - 1.1e-5, 0.5, 0.0), (1.0, 0.5, 0.5 - 6e-6, 0.2, 0.0), (1.0, 0.3, 1e-4, 1e-4 - 2e-9, 0.0)]
)
def test_levels_that_are_just_apart_lead_to_the_clean_video(sigmas: tuple[float, ...], solver: SolverName) -> None:
    clean, noise = normal((1, 4, 2, 3, 3), 1), normal((1, 4, 2, 3, 3), 2)
    latents, steps = noise, make_solver(solver, check_sigmas(sigmas), 0)
    for i, sigma in enumerate(sigmas[:-1]):
        latents = steps.step((latents - clean) / sigma, i, latents)
    torch.testing.assert_close(latents, clean, rtol=0, atol=2e-5)
