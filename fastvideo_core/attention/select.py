"""From the name of a backend, or "auto", to one function that has been tried: it runs, or says every reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor

from ..errors import NumericsError, RequestError
from .backends import AUTO_ORDER, BACKENDS, Backend, backend
from .dense import Attend
from .probe import faults
from .requirements import (
    MASK_WORDS,
    Capability,
    Compiler,
    Device,
    Package,
    Situation,
    Torch,
    mask_kind,
    unmet,
    where,
)


@dataclass(frozen=True)
class Choice:
    """asked: a backend's name or "auto". rejected: of the backends that were not chosen, why each."""

    asked: str
    backend: str
    why: str
    rejected: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Attention:
    """A chosen backend, tried in its situation. Called as `Attend` says. exact: for calls that want full precision, where the
    chosen one has less.

    Raises:
        RequestError: on a call, for a mask of another kind than it was prepared for. Prepared for a bias, it takes no mask as
            well: that is a bias of zero.
    """

    choice: Choice
    situation: Situation
    attend: Attend
    exact: "Attention | None" = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        kind = mask_kind(mask)
        if kind != self.situation.mask and (kind, self.situation.mask) != ("none", "bias"):
            raise RequestError(
                f"{self.choice.backend} was prepared for {MASK_WORDS[self.situation.mask]} and got {MASK_WORDS[kind]}: prepare "
                "attention for the masks that the calls have."
            )
        return self.attend(q, k, v, mask, scale)


def prepare(asked: str, situation: Situation) -> Attention:
    """The backend of that name, or for "auto" the first of `AUTO_ORDER` that runs.

    Raises:
        RequestError: the name is unknown, or the backend cannot run there; the message has every reason.
        NumericsError: it runs and gives wrong values.
    """
    if asked == "auto":
        return _automatic(situation)
    row = backend(asked)
    attend, reasons = _load(row, situation)
    if attend is None:
        raise RequestError(
            f"The attention backend {asked} ({row.title}) cannot run here ({where(situation)}): it {'; it '.join(reasons)}. "
            "Choose another one, or auto."
        )
    wrong = faults(attend, situation, row.error)
    if wrong:
        raise NumericsError(
            f"The attention backend {asked} ({row.title}) is broken here ({where(situation)}): {'; '.join(wrong)}. Choose "
            "another one, or install a build that fits this GPU and this torch."
        )
    others = {name: ("was not asked for",) for name in BACKENDS if name != asked}
    return Attention(Choice(asked, asked, "as asked", MappingProxyType(others)), situation, attend)


def beside_exact(attention: Attention) -> Attention:
    """The same; with an exact backend for calls that want full precision, where it is a low-precision one.

    Raises:
        RequestError: no exact backend runs there.
    """
    if BACKENDS[attention.choice.backend].error is None:
        return attention
    return replace(attention, exact=_automatic(attention.situation))


def survey(situation: Situation) -> dict[str, tuple[str, ...]]:
    """Every backend, and why it cannot run there; nothing is imported or tried. Those that can come first."""
    reasons = {name: row.unmet(situation) for name, row in BACKENDS.items()}
    return dict(sorted(reasons.items(), key=lambda item: bool(item[1])))


def impossible(name: str, situation: Situation) -> tuple[str, ...]:
    """Why a backend runs with no model on this machine: packages, device, compiler; nothing where it may."""
    of_machine = [
        each for each in backend(name).requirements if isinstance(each, Package | Torch | Device | Capability | Compiler)
    ]
    return unmet(of_machine, situation)


def _automatic(situation: Situation) -> Attention:
    rejected: dict[str, tuple[str, ...]] = {}
    for name in AUTO_ORDER:
        attend, reasons = _load(BACKENDS[name], situation)
        if attend is not None:
            reasons = faults(attend, situation, BACKENDS[name].error)
            if not reasons:
                why = "; ".join(["auto", *(f"not {other}: {_short(given)}" for other, given in rejected.items())])
                return Attention(Choice("auto", name, why, _with_rest(rejected, name, situation)), situation, attend)
        rejected[name] = reasons
    listed = "; ".join(f"{name} {'; it '.join(reasons)}" for name, reasons in rejected.items())
    raise RequestError(f"No attention backend that auto tries runs here ({where(situation)}): {listed}.")


def _with_rest(rejected: Mapping[str, tuple[str, ...]], chosen: str, situation: Situation) -> Mapping[str, tuple[str, ...]]:
    """The reasons of those that were tried, and of all others."""
    rest = {name: row.unmet(situation) for name, row in BACKENDS.items() if name != chosen}
    for name, reasons in rest.items():
        if name in rejected:
            rest[name] = rejected[name]
        elif not reasons:
            rest[name] = (f"{chosen} comes first" if name in AUTO_ORDER else "auto does not choose it: ask for it by name",)
    return MappingProxyType(rest)


def _load(row: Backend, situation: Situation) -> tuple[Attend | None, tuple[str, ...]]:
    """Its function, or every reason why there is none."""
    reasons = row.unmet(situation)
    if reasons:
        return None, reasons
    try:
        return row.load(), ()
    except (ImportError, OSError) as error:
        return None, (f"is installed and cannot be imported ({error})",)


def _short(reasons: tuple[str, ...]) -> str:
    return reasons[0] + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")
