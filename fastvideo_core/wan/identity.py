"""Which network it is, exactly: what a saved generation goes on with must be the same one, with the same LoRAs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..digests import weights_digest
from ..errors import RequestError
from .at_work import check_idle
from .loading.lora_change import before_loras, tensors_of
from .loading.lora_strengths import AppliedLora, applied_loras

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True)
class NetworkIdentity:
    """weights: the very parameters before LoRAs, by name, which stay the same while the network moves and works."""

    weights: Mapping[str, Tensor]
    loras: tuple[AppliedLora, ...]

    @classmethod
    def of(cls, transformer: "WanTransformer3DModel") -> "NetworkIdentity":
        """Nothing is read.

        Raises:
            RequestError: it is at work, with other modules in the place of its own.
        """
        check_idle(transformer, "A second generation was asked for")
        stored = tensors_of(transformer)
        own = chain(transformer.named_parameters(), transformer.named_buffers())
        return cls(before_loras({name: tensor for name, tensor in own if name in stored}), applied_loras(transformer))

    def json(self) -> dict[str, Any]:
        """Reads some values of each weight, for which it waits for their device."""
        loras = {f"{number} ({lora.name})": asdict(lora) for number, lora in enumerate(self.loras, start=1)}
        return {"weights": weights_digest(self.weights), "loras": loras}


def check_as_before(transformers: Mapping[str, "WanTransformer3DModel"], before: Mapping[str, NetworkIdentity]) -> None:
    """Raises RequestError where the LoRAs of an expert are others than before. Nothing is read."""
    now = {expert: NetworkIdentity.of(transformer) for expert, transformer in transformers.items()}
    changed = [
        expert
        for expert, network in now.items()
        if network.loras != before[expert].loras or network.weights.keys() != before[expert].weights.keys()
    ]
    if changed:
        raise RequestError(
            f"The LoRAs of {', '.join(changed)} were changed between two turns of a generation. Make all turns with the same "
            "ones, or begin anew."
        )
