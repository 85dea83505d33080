"""What computed attention."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AttentionReport:
    """What computed self- or cross-attention (`part`) of one expert.

    asked: a backend's name, or "auto". calls: how often it ran; 0 where all of it was in compiled blocks, which do not count.
    network_calls: of the whole network. rejected: of each other backend, why it was not chosen. exact_calls: of exact_backend,
    where the network wants full precision and the chosen backend has less.
    """

    expert: str
    part: str
    asked: str
    backend: str
    why: str
    calls: int
    network_calls: int
    rejected: dict[str, tuple[str, ...]]
    exact_backend: str = ""
    exact_calls: int = 0

    def lines(self) -> list[str]:
        """As a person reads it."""
        counted = self.calls or self.exact_calls or not self.network_calls
        ran = f"{self.calls} calls" if counted else "compiled blocks, which do not count"
        if self.exact_calls:
            ran += f" and {self.exact_calls} by {self.exact_backend}, where the network wants full precision,"
        network = f"{self.network_calls} of the network"
        return [f"{self.part} of the {self.expert.replace('_', '-')} expert: {self.backend} ({self.why}), {ran} in {network}"]
