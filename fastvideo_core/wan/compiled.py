"""torch.compile of the transformer's blocks, each by itself: the loop over them, step caches and guidance stay Python, and one
block's code serves all of them, for weights are its inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..around import AroundExperts
from ..attention.compiling import many_shapes
from ..attention.requirements import Compiler, Situation
from ..checks import of_kind, one_of
from ..errors import RequestError
from ..guidance import Branch, Prediction
from ..schedule import Phase

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from .denoiser import TransformerDenoiser, TransformerExperts


@dataclass(frozen=True)
class CompileSettings:
    """backend: of `torch.compile`, by name."""

    backend: str = "inductor"

    def __post_init__(self) -> None:
        of_kind("backend", self.backend, str, "it is the name of a backend of torch.compile, such as inductor.")

    def check(self, situation: Situation) -> None:
        """Raises RequestError where nothing can be compiled."""
        known = torch.compiler.list_backends(exclude_tags=())
        one_of("The backend of torch.compile", self.backend, known)
        reasons = Compiler().unmet(situation) if self.backend == "inductor" else ()
        if reasons:
            raise RequestError(
                f"The blocks were to be compiled, and {self.backend} {'; '.join(reasons)}. Install one, or do not compile."
            )


@dataclass
class CompileAccount:
    """What torch compiled in one generation. calls: of the network; graphs: compiled in them; last: the last call, from 1, in
    which any was."""

    settings: CompileSettings
    calls: int = 0
    graphs: int = 0
    last: int = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call of the network."""
        from torch._dynamo.utils import counters

        before = counters["stats"]["unique_graphs"]
        self.calls += 1
        with many_shapes():
            yield
        new = counters["stats"]["unique_graphs"] - before
        if new:
            self.graphs, self.last = self.graphs + new, self.calls

    def note(self) -> str:
        """For the report."""
        head = f"blocks compiled by {self.settings.backend}"
        if not self.graphs:
            return f"{head}: by code that was there before, nothing new in {self.calls} calls of the network"
        graphs = f"{self.graphs} graphs, the last" if self.graphs > 1 else "1 graph,"
        return f"{head}: {graphs} in call {self.last} of {self.calls} of the network"


@dataclass(frozen=True)
class CompiledDenoiser:
    """A denoiser whose blocks are compiled when they are first called."""

    denoiser: "TransformerDenoiser"
    account: CompileAccount

    @property
    def transformer(self) -> "WanTransformer3DModel":
        return self.denoiser.transformer

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        with self.account.call():
            return self.denoiser.predict(latents, sigma, branches)

    def fits_batched(self, tokens_held: int = 0) -> tuple[bool, str]:
        return self.denoiser.fits_batched(tokens_held)


@dataclass(frozen=True)
class CompiledExperts(AroundExperts):
    """Experts whose blocks are compiled, for `generate`; a step cache goes around them. After each phase the transformer is as
    before, and torch keeps the code for the next one."""

    experts: "TransformerExperts"
    account: CompileAccount

    @contextmanager
    def active(self, phase: Phase) -> Iterator[CompiledDenoiser]:
        import torch._dynamo  # noqa: F401 - sparse attention stays apart from compiled code where torch's compiler is loaded

        with self.experts.active(phase) as denoiser, compiled(denoiser.transformer, self.account.settings):
            yield CompiledDenoiser(denoiser, self.account)


@contextmanager
def compiled(transformer: "WanTransformer3DModel", settings: CompileSettings) -> Iterator[None]:
    """Calls of the blocks run compiled code; afterwards, also on interrupt, they do not. Shapes are static: each size of video,
    number of branches and length of text is compiled once in the process.

    Raises:
        RequestError: the blocks are compiled already.
    """
    blocks = list(transformer.blocks)
    if any(block._compiled_call_impl is not None for block in blocks):
        raise RequestError("The transformer's blocks are compiled already: load it anew, or do not compile them again.")
    try:
        for block in blocks:
            block.compile(backend=settings.backend, dynamic=False)
        yield
    finally:
        for block in blocks:
            vars(block).pop("_compiled_call_impl", None)
