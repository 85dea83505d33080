"""How one step moves the latents along the flow: `step(velocity, i, latents) -> latents`, all float32.

A solver belongs to one generation: it keeps its history, and the history goes on across phases.
The flow is x = (1 - sigma) * x0 + sigma * noise, and the model gives velocity = noise - x0, so x0 = x - sigma * velocity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from .errors import RequestError

SolverName = Literal["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"]
Noise = Callable[[Tensor], Tensor]
"""Draws fresh standard normal noise shaped like its argument."""


class Solver(Protocol):
    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        """From sigmas[i] to sigmas[i + 1]. velocity, latents: (B, C, T, H, W) float32."""
        ...

    def history(self) -> Mapping[str, Tensor]:
        """What it keeps from step to step, as named by `history_names`; each (B, C, T, H, W), float32 or float64."""
        ...

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        """A fresh one goes on before `step`, where another had this history."""
        ...


def history_names(name: SolverName, step: int) -> tuple[str, ...]:
    """What a solver keeps before `step` of a generation."""
    if name == "dpmpp_2m" and step:
        return ("denoised",)
    if name == "unipc" and step:
        return ("denoised", "last", "before")[: 2 + (step > 1)]
    if name in ("euler_float64", "dmd_float64") and step:
        return ("rounded_off",)
    return ()


class Euler:
    """First order: x + (sigma' - sigma) * velocity."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        return latents + (self.sigmas[i + 1] - self.sigmas[i]) * velocity

    def history(self) -> Mapping[str, Tensor]:
        return {}

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        """It has none."""


class DpmPlusPlus2M:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2) with lambda = -log(sigma), as the sampler of
    this name in k-diffusion and ComfyUI; on a flow the first-order part is exact for a constant x0."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas
        self.previous: Tensor | None = None

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        sigma, target = self.sigmas[i], self.sigmas[i + 1]
        denoised = latents - sigma * velocity
        slope = denoised
        if self.previous is not None and target > 0:
            ratio = math.log(self.sigmas[i - 1] / sigma) / math.log(sigma / target)
            slope = denoised + (denoised - self.previous) / (2 * ratio)
        self.previous = denoised
        return latents * (target / sigma) + slope * (1 - target / sigma)

    def history(self) -> Mapping[str, Tensor]:
        return {} if self.previous is None else {"denoised": self.previous}

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        self.previous = history.get("denoised")


class FewStep:
    """The rule of distilled few-step models (DMD2, arXiv 2405.14867; LCM, arXiv 2310.04378): go to x0, then add fresh
    noise for the next level. The noise of all steps is drawn in the first one: a copy to the device waits for it."""

    def __init__(self, sigmas: Sequence[float], noise: Noise) -> None:
        self.sigmas = sigmas
        self.noise = noise
        self.drawn: dict[int, Tensor] = {}  # by step
        self.made = 0  # steps for which another one drew

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        denoised = latents - self.sigmas[i] * velocity
        target = self.sigmas[i + 1]
        if target == 0:
            return denoised
        if i not in self.drawn:
            for _ in range(self.made):
                self.noise(denoised)
            self.drawn = {j: self.noise(denoised) for j in range(i, len(self.sigmas) - 1) if self.sigmas[j + 1] > 0}
        return (1 - target) * denoised + target * self.drawn.pop(i)

    def history(self) -> Mapping[str, Tensor]:
        return {}

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        self.made = step


class InFloat64:
    """Another rule, with latents that stay float64 between the steps, as rCM and TurboDiffusion sample (thu-ml/TurboDiffusion,
    turbodiffusion/inference/wan2.1_t2v_infer.py): what rounding to float32 takes off for the network is kept. GPUs without
    float64 leave it to the CPU, with the same values."""

    def __init__(self, rule: Solver) -> None:
        self.rule = rule
        self.rounded_off: Tensor | None = None  # float64

    def begin(self, noise: Tensor, level: float) -> Tensor:
        """Noise (B, C, T, H, W) float32 at the first level."""
        return self._rounded(level * _float64(noise), noise)

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        exact = _float64(latents)
        if self.rounded_off is not None:
            exact = exact + _float64(self.rounded_off).to(exact.device)
        return self._rounded(self.rule.step(_float64(velocity), i, exact), latents)

    def _rounded(self, exact: Tensor, like: Tensor) -> Tensor:
        rounded = exact.float()
        self.rounded_off = exact - rounded
        return rounded.to(like.device)

    def history(self) -> Mapping[str, Tensor]:
        return {} if self.rounded_off is None else {"rounded_off": self.rounded_off}

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        self.rule.go_on(step, {})
        self.rounded_off = history.get("rounded_off")


def _float64(tensor: Tensor) -> Tensor:
    """Where there surely is float64: many GPUs besides NVIDIA's and AMD's have none."""
    return (tensor if tensor.device.type in ("cpu", "cuda") else tensor.cpu()).double()


class UniPC:
    """UniPC of order 2 (Zhao et al. 2023, arXiv 2302.04867) in x0 prediction with B(h) = expm1(h) ("bh2"), order 1 in the
    last step: what Wan samples with (Wan2.1, wan/utils/fm_solvers_unipc.py). Same values as diffusers'
    UniPCMultistepScheduler for the same sigmas."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas
        self.denoised: list[Tensor] = []  # newest last, at most two
        self.last: Tensor | None = None  # latents before the last step
        self.last_order = 0

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        denoised = latents - self.sigmas[i] * velocity
        if self.last is not None:
            latents = self._correct(self.last, denoised, i)
        self.denoised = [*self.denoised[-1:], denoised]
        final = i == len(self.sigmas) - 2
        self.last_order = 1 if final else min(2, len(self.denoised))
        self.last = latents
        return self._predict(latents, i, self.last_order)

    def history(self) -> Mapping[str, Tensor]:
        if self.last is None:
            return {}
        return {"denoised": self.denoised[-1], "last": self.last} | ({"before": self.denoised[0]} if self.denoised[1:] else {})

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        self.denoised = [history[name] for name in ("before", "denoised") if name in history]
        self.last, self.last_order = history.get("last"), len(self.denoised)

    def _log_snr(self, i: int) -> float:
        # At sigma = 1 the signal-to-noise ratio is 0; diffusers steps back by the same 1e-6.
        sigma = min(self.sigmas[i], 1 - 1e-6)
        return math.inf if sigma == 0 else math.log((1 - sigma) / sigma)

    def _update(self, latents: Tensor, origin: Tensor, source: int, target: int, change: Tensor | None) -> Tensor:
        """x_t = sigma_t/sigma_s * x - alpha_t * (e^-h - 1) * (x0 + change), equations 8 and 9 of the paper."""
        scale = self.sigmas[target] / self.sigmas[source]
        gain = (1 - self.sigmas[target]) * -math.expm1(self._log_snr(source) - self._log_snr(target))
        return scale * latents + gain * (origin if change is None else origin + change)

    def _difference(self, source: int, target: int) -> tuple[float, Tensor]:
        """Divided difference of the two newest x0 before `target`, and its node r."""
        step = self._log_snr(target) - self._log_snr(source)
        r = (self._log_snr(source - 1) - self._log_snr(source)) / step
        return r, (self.denoised[-2] - self.denoised[-1]) / r

    def _predict(self, latents: Tensor, i: int, order: int) -> Tensor:
        change = 0.5 * self._difference(i, i + 1)[1] if order == 2 else None
        return self._update(latents, self.denoised[-1], i, i + 1, change)

    def _correct(self, latents: Tensor, denoised: Tensor, i: int) -> Tensor:
        origin = self.denoised[-1]
        if self.last_order == 1:
            return self._update(latents, origin, i - 1, i, 0.5 * (denoised - origin))
        r, difference = self._difference(i - 1, i)
        first, second = _corrector_weights(r, self._log_snr(i - 1) - self._log_snr(i))
        return self._update(latents, origin, i - 1, i, first * difference + second * (denoised - origin))


def _corrector_weights(r: float, hh: float) -> tuple[float, float]:
    """Solves [[1, 1], [r, 1]] rho = (b1, b2), the order conditions of the paper's theorem 3.1, hh = -h."""
    expm1 = math.expm1(hh)
    phi = expm1 / hh - 1
    b1 = phi / expm1
    b2 = 2 * (phi / hh - 0.5) / expm1
    first = (b1 - b2) / (1 - r)
    return first, b1 - first


def fresh_noise(seed: int, drawn: int = 0) -> Noise:
    """Noise on the CPU, so that a seed means the same video on every device. The initial noise of a generation comes from
    the seed itself; the fresh noise must repeat neither that nor the initial noise of the next seeds, so its own seed is
    far off: all bits of the golden ratio's 64-bit fraction are flipped in it.

    Args:
        drawn: how often it was drawn before, by a sampler that this one goes on from.
    """
    generator = torch.Generator().manual_seed(seed ^ 0x9E3779B97F4A7C15)
    earlier = drawn

    def noise(like: Tensor) -> Tensor:
        nonlocal earlier
        while earlier:
            torch.randn(like.shape, generator=generator, device="cpu")
            earlier -= 1
        return torch.randn(like.shape, generator=generator, device="cpu").to(like.device)

    return noise


def begin(solver: Solver, noise: Tensor, level: float) -> Tensor:
    """Where a generation from pure noise begins: at its first level, which in few-step recipes may be below 1.

    Args:
        noise: (B, C, T, H, W) float32, standard normal.
    """
    if level == 1:
        return noise
    return solver.begin(noise, level) if isinstance(solver, InFloat64) else level * noise


def make_solver(name: SolverName, sigmas: Sequence[float], seed: int, start: int = 0) -> Solver:
    """A fresh solver for one generation. Only the "dmd" ones draw noise, from `seed`, once per step; start: how many steps
    of the run another sampler made."""
    if name == "euler":
        return Euler(sigmas)
    if name == "unipc":
        return UniPC(sigmas)
    if name == "dpmpp_2m":
        return DpmPlusPlus2M(sigmas)
    if name == "dmd":
        return FewStep(sigmas, fresh_noise(seed, start))
    if name == "euler_float64":
        return InFloat64(Euler(sigmas))
    if name == "dmd_float64":
        return InFloat64(FewStep(sigmas, fresh_noise(seed, start)))
    raise RequestError(f"Solver {name!r} is unknown. Known: {', '.join(get_args(SolverName))}.")
