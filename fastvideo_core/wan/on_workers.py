"""A model whose transformers are in workers: encoders, VAE, loop, guidance and solver are here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..parallel.group import Group
from ..parallel.layout import Layout
from ..step_cache.cache_dit import CacheDiT
from .asked import AskedExperts
from .at_work import check_idle
from .generation import Generation
from .loading.lora import LoraReport, apply_lora
from .model import WanModel
from .parts import Transformers
from .sharded import check_guidance
from .working import Work


@dataclass(frozen=True)
class GroupRanks:
    """The ranks of one group, as `AskedExperts` asks them: all the same. shard_weights: whether they share the weights."""

    group: Group
    layout: Layout
    device: str
    shard_weights: bool = False

    @property
    def running(self) -> bool:
        return self.group.running

    @property
    def title(self) -> str:
        shared = ", which share the weights" if self.shard_weights else ""
        return f"{self.layout.ranks} workers on {self.device} ({self.layout.text()}){shared}"

    def ask(self, method: str, *given: object, stoppable: bool = False) -> Sequence[Any]:
        return self.group.ask(method, [given] * self.layout.ranks, stoppable=stoppable)


@dataclass(frozen=True, kw_only=True)
class ModelOnWorkers(WanModel):
    """A `WanModel` whose transformers work in the ranks of one group. Those here are the same files, mapped: they tell which they
    are, and never work. A step of a generation raises WorkerError where a rank is gone; the next generation has new ones. owner:
    is kept alive with the model."""

    ranks: GroupRanks
    owner: object

    def check(self, generation: Generation) -> None:
        """Raises RequestError where half of the ranks would have nothing to do, its step cache cannot work in another process, or
        LoRAs that are fused into weights that ranks share would be at other strengths."""
        check_guidance(self.ranks.layout, generation.request.guidance)
        check_elsewhere(generation)
        if self.ranks.shard_weights:
            check_fused(generation)

    def working(self, transformers: Transformers, work: Work) -> AskedExperts:
        return AskedExperts(self.ranks, work, transformers)

    def apply_lora(self, expert: str, path: Path | str, strength: float = 1.0, name: str | None = None) -> LoraReport:
        """As `apply_lora`, in the workers and here. path: a file that each machine has."""
        check_idle(self.transformers[expert], "A LoRA was to be applied")
        path = Path(path).absolute()
        group = self.ranks.group
        group.prepare("lora", [(expert, path, strength, name)] * self.ranks.layout.ranks)
        return apply_lora(self.transformers[expert], path, strength, name)


def check_elsewhere(generation: Generation) -> None:
    """Raises RequestError where its step cache cannot work in another process."""
    if isinstance(generation.cache, CacheDiT):
        raise RequestError("cache-dit's own DBCache decides in one process, and the network is in others. Use with_dbcache().")


def check_fused(generation: Generation) -> None:
    """Raises RequestError where a phase asks for LoRAs at strengths of its own."""
    asked = {name: strength for phase in generation.guidance.schedule.phases for name, strength in phase.loras.items()}
    if asked:
        raise RequestError(
            f"Phases ask for LoRAs at other strengths ({', '.join(asked)}), and ranks that share the weights have them fused "
            "into these. Apply them at the strength that they shall have, or leave the weights whole: shard_weights=False."
        )


def on_workers(model: WanModel, ranks: GroupRanks, owner: object) -> ModelOnWorkers:
    """The same model, but for where its transformers work."""
    parts: Mapping[str, Any] = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return ModelOnWorkers(**parts, ranks=ranks, owner=owner)
