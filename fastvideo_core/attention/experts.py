"""Where attention backends meet a generation on diffusers' network: experts that compute with the chosen ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..around import AroundExperts
from ..checks import one_of, yes_or_no
from ..conditioning import TEXT_TOKENS
from ..report import AttentionReport, TextReport
from ..schedule import Phase
from .account import AttentionAccount
from .backends import BACKENDS, backend
from .exchange import attending
from .folding import text_report
from .lean import is_as_made
from .requirements import Situation
from .select import prepare

if TYPE_CHECKING:
    import torch
    from diffusers import WanTransformer3DModel

    from ..wan.denoiser import WanDenoiser, WanExperts


@dataclass(frozen=True)
class AttentionSettings:
    """Backends by name, or "auto"; see `BACKENDS`. keep_keys: see `WanExperts`; False where memory is short."""

    self_attention: str = "auto"
    cross_attention: str = "auto"
    keep_keys: bool = True

    def __post_init__(self) -> None:
        for name in ("self_attention", "cross_attention"):
            one_of(name, getattr(self, name), ("auto", *BACKENDS))
        yes_or_no("keep_keys", self.keep_keys)


class AttendingExperts(AroundExperts):
    """Experts that compute with the chosen attention, for `generate`. The transformers are as before after each phase. A backend
    for cross-attention that was asked for by name and takes no bias reads all 512 rows of text.

    Raises:
        RequestError: a backend cannot run on the experts' device in their dtype; with every reason.
        NumericsError: it gives wrong values there.
    """

    experts: "WanExperts"

    def __init__(self, experts: "WanExperts", settings: AttentionSettings) -> None:
        foldable = all(takes_bias(settings.cross_attention, situation_of(experts, name)) for name in experts.names)
        self.experts = replace(
            experts, fold_text=experts.fold_text and foldable, keep_keys=experts.keep_keys and settings.keep_keys
        )
        self._accounts = {name: _account(self.experts, name, settings) for name in experts.names}

    @property
    def transformers(self) -> "Mapping[str, WanTransformer3DModel]":
        return self.experts.transformers

    @property
    def device(self) -> "torch.device":
        return self.experts.device

    @contextmanager
    def active(self, phase: Phase) -> Iterator["WanDenoiser"]:
        account = self._accounts[phase.expert]
        with self.experts.active(phase) as denoiser, attending(denoiser.transformer, account):
            yield denoiser

    def reports(self) -> tuple[AttentionReport, ...]:
        """Two of each expert."""
        return tuple(report for expert, account in self._accounts.items() for report in account.reports(expert))


def text_reports(experts: "WanExperts", compiled: bool) -> tuple[TextReport, ...]:
    """How they are about to read the text. compiled: their blocks will be, which keep no keys and values."""
    experts = replace(experts, keep_keys=experts.keep_keys and not compiled)
    return tuple(text_report(name, TEXT_TOKENS, experts.text(name), _all_rows(experts, name)) for name in experts.names)


def _all_rows(experts: "WanExperts", name: str) -> str:
    """Why an expert would read all rows of any text."""
    if not experts.fold_text:
        return "the backend of cross-attention takes no bias"
    return "" if is_as_made(experts.transformers[name]) else "its attention was changed"


def _account(experts: "WanExperts", name: str, settings: AttentionSettings) -> AttentionAccount:
    situation = situation_of(experts, name)
    across = situation if experts.text(name) is None else replace(situation, mask="bias")
    return AttentionAccount.of(prepare(settings.self_attention, situation), prepare(settings.cross_attention, across))


class _Placed(Protocol):
    """`WanExperts` or `AttendingExperts`."""

    @property
    def transformers(self) -> "Mapping[str, WanTransformer3DModel]": ...

    @property
    def device(self) -> "torch.device": ...


def situation_of(experts: _Placed, name: str) -> Situation:
    """Where an expert computes attention without a mask."""
    from ..wan.memory import compute_dtype

    transformer = experts.transformers[name]
    return Situation.on(experts.device, compute_dtype(transformer), transformer.config.attention_head_dim)


def takes_bias(asked: str, situation: Situation) -> bool:
    """asked: of `AttentionSettings`. Whether a bias is no further reason against the backend."""
    row = None if asked == "auto" else backend(asked)
    return row is None or row.unmet(replace(situation, mask="bias")) == row.unmet(situation)
