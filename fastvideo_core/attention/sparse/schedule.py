"""Where in a generation attention is sparse, and where it stays dense."""

from dataclasses import dataclass
from typing import get_args

from ...checks import one_of, whole
from ...errors import RequestError
from ...schedule import Phase
from .kernel import KernelName
from .variant import SparseSettings


@dataclass(frozen=True, kw_only=True)
class SparseSchedule:
    """The first steps settle what the video shows, and the first layers what the others see: both are often left dense.

    settings: of every expert but that of the name low_noise; None leaves them dense.
    low_noise: of the expert of that name; None leaves it dense.
    dense_steps: steps at the start of the generation that are dense.
    dense_layers: layers at the network's start that are dense.
    kernel: "flex" compiles, which takes seconds for each new size of video and needs a compiler (on the CPU C++, on a GPU
        Triton); "gather" is plain torch.
    """

    settings: SparseSettings | None
    low_noise: SparseSettings | None = None
    dense_steps: int = 0
    dense_layers: int = 0
    kernel: KernelName = "flex"

    def __post_init__(self) -> None:
        for name in ("dense_steps", "dense_layers"):
            whole(name, getattr(self, name), "it counts from the start, 0 for none.", least=0)
        for name in ("settings", "low_noise"):
            given = getattr(self, name)
            if given is not None and not callable(getattr(given, "prepare", None)):
                raise RequestError(f"{name} is {given!r:.80}: give settings of a variant, such as VSASettings(sparsity=0.8).")
        if self.settings is None and self.low_noise is None:
            raise RequestError("settings and low_noise are None: give one of them a variant, or leave sparse attention out.")
        one_of("kernel", self.kernel, get_args(KernelName))

    def of(self, phase: Phase) -> SparseSettings | None:
        """The variant of a phase's expert."""
        return self.low_noise if phase.expert == "low_noise" else self.settings
