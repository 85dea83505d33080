"""Linear layers on the CPU in float32, each by what is fastest for its shape on the machine at hand: torch's own `linear` takes
MKL there, which on some AMD CPUs uses half of the vector units that oneDNN uses, and on others is the faster one. Whatever is
taken, values differ by rounding only. In the lower dtypes torch takes oneDNN by itself."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

Way = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of computing a layer: x (.., K), weight (N, K), bias (N,). Returns a new (.., N)."""

CLEARLY = 0.97
"""How much of torch's time another way may take to be chosen."""
_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 0.01, 3, 20
_PRODUCTS, _LEAST_ROWS = 10**9, 256
"""Of a measurement: a layer of many rows is measured on some of them, its rate being the same."""
_VALUES = 2**17
"""That a thread takes through all of GELU's passes at a time, so that they stay in its cache."""


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's compiler puts this in the place of `linear` in frozen code (torch/_inductor/fx_passes/mkldnn_fusion.py)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _onednn_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Applied while a value is in a register."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return y


def _torch_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.gelu(nn.functional.linear(x, weight, bias), approximate="tanh")


def gelu_(x: Tensor) -> Tensor:
    """GELU by its approximation with tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415), in place: x (1 + tanh u) / 2 is x
    sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3), and torch's sigmoid takes half of the time of its GELU."""
    double = 2 * math.sqrt(2 / math.pi)
    for part in torch.split(x.view(-1), _VALUES * torch.get_num_threads()):
        part.mul_((part * part).mul_(0.044715 * double).add_(double).mul_(part).sigmoid_())
    return x


def _then_gelu(way: Way) -> Way:
    return lambda x, weight, bias: gelu_(way(x, weight, bias))


def _ways(gelu: bool) -> Mapping[str, Way]:
    has_onednn = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    plain: dict[str, Way] = {"torch": nn.functional.linear}
    fused: dict[str, Way] = {"torch": _torch_gelu}
    if has_onednn:
        plain["oneDNN"], fused["oneDNN"] = _onednn, _onednn_gelu
    if not gelu:
        return MappingProxyType(plain)
    return MappingProxyType(fused | {f"{name}, GELU in place": _then_gelu(way) for name, way in plain.items()})


WAYS: Mapping[bool, Mapping[str, Way]] = MappingProxyType({gelu: _ways(gelu) for gelu in (False, True)})
"""By name, torch's own first: False of a layer, True of a layer and its GELU."""


@cache
def fastest(rows: int, inputs: int, outputs: int, biased: bool, gelu: bool, threads: int) -> str:
    """Of `WAYS`, for a layer of this shape: measured once in a process, torch's own unless another is clearly faster. threads:
    of torch, with so many it is measured."""
    rows = min(rows, max(_LEAST_ROWS, _PRODUCTS // (inputs * outputs)))
    x, weight = torch.full((rows, inputs), 1 / inputs, device="cpu"), torch.ones(outputs, inputs, device="cpu")
    bias = torch.zeros(outputs, device="cpu") if biased else None
    seconds = _seconds({name: partial(way, x, weight, bias) for name, way in WAYS[gelu].items()}, threads)
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < CLEARLY * seconds["torch"] else "torch"


def _seconds(runs: Mapping[str, Callable[[], Tensor]], threads: int) -> dict[str, float]:
    """The least of each, taken in turns. Where one thread computes, by its own clock: what else runs does not count."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    least = dict.fromkeys(runs, math.inf)
    for run in runs.values():
        run()
    begun = time.perf_counter()
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and time.perf_counter() - begun > _SECONDS * len(runs):
            break
        for name, run in runs.items():
            start = clock()
            run()
            least[name] = min(least[name], clock() - start)
    return least


def _computed(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return WAYS[gelu][_fastest(x, weight, bias, gelu)](x, weight, bias)


def _fastest(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> str:
    outputs, inputs = weight.shape
    return fastest(x.numel() // inputs, inputs, outputs, bias is not None, gelu, torch.get_num_threads())


# What torch's compiler does not know it calls as it is: it can neither measure nor take oneDNN with weights that may change.
_operator = torch.library.custom_op("fastvideo::linear", _computed, mutates_args=())


def in_compiled_code(x: Tensor, linear: nn.Linear, gelu: bool) -> Tensor:
    """Its layer, and GELU, for torch's compiler."""
    y: Tensor = _operator(x, linear.weight, linear.bias, gelu)
    return y


@_operator.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@dataclass
class LinearAccount:
    """What layers were computed by in one generation, for the report; compiled code does not tell. taken: what an earlier part of
    it was computed by, and this one is."""

    ways: dict[tuple[int, ...], str] = field(default_factory=dict)
    taken: dict[tuple[int, ...], str] = field(default_factory=dict)

    def compute(self, x: Tensor, linear: nn.Linear, gelu: bool) -> Tensor:
        shape = x.numel() // linear.in_features, linear.in_features, linear.out_features, gelu
        way = self.ways[shape] = self.taken.get(shape) or _fastest(x, linear.weight, linear.bias, gelu)
        return WAYS[gelu][way](x, linear.weight, linear.bias)

    def json(self) -> list[list[int | str]]:
        """So far, for `take`: by what is measured anew, values could differ by rounding."""
        return [[*shape, way] for shape, way in (self.taken | self.ways).items()]

    def take(self, rows: Sequence[Sequence[int | str]]) -> None:
        """What an earlier part of the generation computed by. What this machine has not is measured anew."""
        for *shape, way in rows:
            if way in WAYS[bool(shape[-1])]:
                self.taken[tuple(map(int, shape))] = str(way)

    def add(self, rows: Sequence[Sequence[int | str]]) -> None:
        """What another computed by in its place, as `json` tells it."""
        self.ways |= {tuple(map(int, shape)): str(way) for *shape, way in rows}

    def notes(self) -> tuple[str, ...]:
        """One, where layers were computed here."""
        if not self.ways:
            return ()
        taken = {name: sum(each == name for each in self.ways.values()) for name in dict.fromkeys(self.ways.values())}
        listed = ", ".join(f"{name} for {count}" for name, count in taken.items())
        return (f"linear layers of {len(self.ways)} shapes, each by what was faster on this machine: {listed}",)
