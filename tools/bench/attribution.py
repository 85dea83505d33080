"""Where the time of a run goes, by clocks around the network's modules and around its attention kernel.

Each part is a clock less the clocks inside it, so that the parts sum up to the run.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .clock import ModuleClock, seconds_of, wait

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

Parts = dict[str, float]
"""Seconds of each part, in the order of `PARTS`."""
PARTS = (
    "self-attention, projections",
    "self-attention, kernel",
    "cross-attention",
    "feed-forward",
    "norms, modulation, rope",
    "embeddings, output head",
    "outside the transformer",
)


class PartsClock:
    """Clocks on the parts of a Wan network, as long as it is entered."""

    def __init__(self, network: "WanTransformer3DModel", device: torch.device) -> None:
        self._kernel = nn.Module()  # the seat of the kernel's clock
        self._kernel.forward = torch.nn.functional.scaled_dot_product_attention
        self._clocks: dict[str, list[ModuleClock]] = {}
        self._calls = 0
        self._in_self_attention = False
        modules: dict[str, list[nn.Module]] = {
            "network": [network],
            "blocks": list(network.blocks),
            "self": [block.attn1 for block in network.blocks],
            "projections": [p for block in network.blocks for p in projections(block.attn1)],
            "kernel": [self._kernel],
            "cross": [block.attn2 for block in network.blocks],
            "feed-forward": [block.ffn for block in network.blocks],
        }
        self._self_attentions = modules["self"]
        self._clocks = {name: [ModuleClock(module, device) for module in own] for name, own in modules.items()}

    def __enter__(self) -> "PartsClock":
        self._stack = ExitStack()
        for clocks in self._clocks.values():
            for clock in clocks:
                self._stack.enter_context(clock)
        for attention in self._self_attentions:
            self._stack.callback(attention.register_forward_pre_hook(self._enter).remove)
            self._stack.callback(attention.register_forward_hook(self._leave).remove)
        self._stack.enter_context(_kernel_seat(self._attend))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _enter(self, *_: object) -> None:
        self._in_self_attention = True
        self._calls += 1

    def _leave(self, *_: object) -> None:
        self._in_self_attention = False

    def _attend(self, *arguments: Any, **named: Any) -> Any:
        return (self._kernel if self._in_self_attention else self._kernel.forward)(*arguments, **named)

    def parts(self, seconds: float) -> Parts:
        """Of a run of so many seconds."""
        of = {name: sum(clock.seconds for clock in clocks) for name, clocks in self._clocks.items()}
        if self._clocks["kernel"][0].calls != self._calls:
            raise RuntimeError(
                f"{self._calls} calls of self-attention used torch's scaled_dot_product_attention "
                f"{self._clocks['kernel'][0].calls} times: the kernel's time cannot be told from the rest. Measure that one."
            )
        own = of["blocks"] - of["self"] - of["cross"] - of["feed-forward"]
        between = of["self"] - of["projections"] - of["kernel"]
        outer = of["network"] - of["blocks"], seconds - of["network"]
        values = of["projections"], of["kernel"], of["cross"], of["feed-forward"], own + between, *outer
        return dict(zip(PARTS, values, strict=True))


def projections(attention: Any) -> list[nn.Module]:
    """The linear layers of a self-attention."""
    return [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]]


@contextmanager
def _kernel_seat(attend: Callable[..., Any]) -> Iterator[None]:
    """Diffusers and the engine look torch's kernel up at each call, so that it can be timed without a profiler."""
    before = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = before


def attributed(run: Callable[[], object], network: "WanTransformer3DModel", device: torch.device) -> Parts:
    """The parts of one run's seconds."""
    wait(device)
    with PartsClock(network, device) as clock:
        seconds = seconds_of(run, device)
    return clock.parts(seconds)
