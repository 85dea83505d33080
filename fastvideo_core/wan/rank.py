"""In a rank's process: the transformers of one checkpoint. A parent asks for calls of them and has the loop itself, or it asks
for whole generations, step by step."""

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attention.experts import AttentionSettings
from ..attention.sparse import SparseSchedule
from ..conditioning import Conditioning
from ..errors import LoadError, RequestError
from ..generate import Step
from ..guidance import Branch
from ..parallel.group import Stop
from ..parallel.ranks import Mesh
from ..report import RunReport
from ..request import SamplingRequest, VideoSize
from ..state import GenerationState
from ..step_cache.session import StepCache
from .asked import AskedExperts
from .compiled import CompileSettings
from .generation import Generation
from .identity import NetworkIdentity
from .loading.lora import apply_lora
from .loading.lora_strengths import AppliedLora, applied_loras
from .loading.transformer import load_transformer
from .parts import File, Transformers
from .ranked import PhaseAccount, PhaseOpening, RankExperts
from .working import Work


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """A whole generation, as data. cache: a fresh one, in which nothing ran; name, title: the model's; loras: on its experts. The
    others as for `WanModel.generate`."""

    name: str
    title: str
    request: SamplingRequest
    conditioning: Conditioning
    size: VideoSize
    cache: StepCache | None
    attention: AttentionSettings | None
    sparse: SparseSchedule | None
    compile: CompileSettings | None
    state: GenerationState | None
    loras: Mapping[str, Sequence[AppliedLora]]


class RankModel:
    """Answers a parent's questions, in turn."""

    def __init__(
        self, mesh: Mesh, stop: Stop, device: str, files: Mapping[str, File], weights: Mapping[str, str], shard_weights: bool
    ) -> None:
        """Opens the files, which are named as on the parent's machine.

        Args:
            weights: what the parent found in its own, as `NetworkIdentity.json` tells it.
            shard_weights: as for `RankExperts`.

        Raises:
            LoadError: one is missing, broken, or another one here. RequestError: the layout does not divide the networks' heads.
        """
        self.device, machine = torch.device(device), platform.node()
        try:
            self.transformers = {expert: load_transformer(file.path, file.dtype) for expert, file in files.items()}
        except LoadError as error:
            raise LoadError(f"On machine {machine}: {error}") from error
        for expert, network in self.transformers.items():
            if NetworkIdentity.of(network).json()["weights"] != weights[expert]:
                raise LoadError(
                    f"On machine {machine} {files[expert].path} holds other weights than here. Every machine needs the same file "
                    "under this name."
                )
        # What works alone stays on its device.
        offload = self.device if len(files) == 1 else torch.device("cpu")
        self._experts = RankExperts(
            self.transformers, mesh, self.device, offload, lambda: stop.asked, shard_weights=shard_weights
        )
        self._generation: Generation | None = None

    def lora(self, expert: str, path: Path, strength: float, name: str | None) -> None:
        """As `apply_lora`, with a file of this machine."""
        apply_lora(self.transformers[expert], path, strength, name)

    def load(self, expert: str, loras: Sequence[AppliedLora]) -> None:
        """Raises RequestError where other LoRAs are on it than on the parent's network."""
        self._check_loras(expert, loras)
        self._experts.load(expert)

    def _check_loras(self, expert: str, loras: Sequence[AppliedLora]) -> None:
        here = applied_loras(self.transformers[expert])
        if tuple(loras) != here:
            names = [", ".join(f"{lora.name} {lora.strength:g}" for lora in each) or "none" for each in (loras, here)]
            raise RequestError(
                f"The LoRAs of {expert} are {names[0]}, and in the workers {names[1]}. Apply them by model.apply_lora(expert, "
                "path, strength), which does it there too."
            )

    def offload(self) -> None:
        self._experts.offload()

    def open(self, opening: PhaseOpening) -> None:
        self._experts.open(opening)

    def call(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Sequence[Tensor] | None:
        return self._experts.call(latents, sigma, branches)

    def fits(self) -> tuple[bool, str]:
        return self._experts.fits()

    def close(self) -> PhaseAccount | None:
        return self._experts.close()

    def begin(self, job: RankJob) -> None:
        """A whole generation, which is at `step` then. It is the only one."""
        if self._generation is not None:  # stopped between two steps
            self._generation.close()
        for expert, loras in job.loras.items():
            self._check_loras(expert, loras)
        cache = None if job.cache is None else _made_before(job.cache)
        self._generation = Generation(
            _Model(self, job.name, job.title), job.request, job.conditioning, job.size, cache, job.attention, job.sparse,
            job.compile, job.state,
        )  # fmt: skip

    def step(self) -> Step | None:
        """The next one; None after the last."""
        return next(self._begun, None)

    def state(self) -> GenerationState:
        """After the last step that it made; also after a stop."""
        return self._begun.state()

    def end(self) -> tuple[Tensor, RunReport]:
        """Its latents (B, C, T, H, W), and its report."""
        generation, self._generation = self._begun, None
        generation.close()
        return generation.latents.cpu(), generation.report()

    @property
    def _begun(self) -> Generation:
        assert self._generation is not None
        return self._generation

    # As the ranks that a generation here asks: this one alone.
    running = True

    @property
    def title(self) -> str:
        return str(self.device)

    def ask(self, method: str, *given: object, stoppable: bool = False) -> Sequence[Any]:
        return [getattr(self, method)(*given)]


def _made_before(cache: StepCache) -> Callable[[Generation], StepCache]:
    return lambda generation: cache


@dataclass(frozen=True)
class _Model:
    """As `WorkingModel`."""

    rank: RankModel
    name: str
    title: str
    ratio_tables: tuple[Path, ...] = ()

    @property
    def transformers(self) -> Transformers:
        return self.rank.transformers

    @property
    def device(self) -> torch.device:
        return self.rank.device

    @property
    def offload_device(self) -> torch.device:
        return torch.device("cpu")

    def working(self, transformers: Transformers, work: Work) -> AskedExperts:
        return AskedExperts(self.rank, work, transformers, claim=lambda networks: nullcontext())  # the rank's own experts do
