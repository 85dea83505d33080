"""The settings of each sparse variant that are compared, from all of the attention to little of it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from fastvideo_core.attention import sparse
from fastvideo_core.attention.sparse import BSASettings, NABLASettings, SLASettings, SparseSettings, STASettings, VSASettings

TILE = (1, 2, 2)
"""Of the demo clips, whose 5 x 4 x 4 tokens would be two of VSA's tiles and less than one of STA's."""

ON_CLIPS: Mapping[type, Sequence[SparseSettings]] = MappingProxyType(
    {
        VSASettings: [VSASettings(sparsity=share, tile=TILE) for share in (0, 0.25, 0.5, 0.7, 0.8, 0.9)],
        SLASettings: [SLASettings(sparsity=0.5)],
        BSASettings: [
            BSASettings(kept_queries=kept, mass=mass, least_tiles=1, tile=TILE)
            for kept, mass in ((0.75, 0.95), (0.75, 0.8), (0.5, 0.9))
        ],
        STASettings: [STASettings(window=window, tile=TILE) for window in ((3, 3, 3), (5, 1, 1), (1, 3, 3))],
        NABLASettings: [NABLASettings(mass=mass, tile=TILE) for mass in (0.95, 0.9, 0.7)],
    }
)
TIMED: Mapping[type, Sequence[SparseSettings]] = MappingProxyType(
    {
        VSASettings: [VSASettings(sparsity=share) for share in (0.5, 0.8, 0.9)],
        SLASettings: [SLASettings(sparsity=share) for share in (0.5, 0.8, 0.9)],
        BSASettings: [BSASettings(mass=mass) for mass in (0.9, 0.4)],
        STASettings: [STASettings(window=window) for window in ((1, 3, 3), (1, 1, 3))],
        NABLASettings: [NABLASettings(mass=mass) for mass in (0.5, 0.2)],
    }
)
"""With their own tiles. What BSA and NABLA choose depends on the values, which are random here."""


def variants() -> Iterator[type]:
    """All that the engine has."""
    for name in sparse.__all__:
        kind = getattr(sparse, name)
        if inspect.isclass(kind) and hasattr(kind, "prepare") and kind is not SparseSettings:
            yield kind


def ladder(settings: Mapping[type, Sequence[SparseSettings]]) -> list[SparseSettings]:
    """Of every variant of the engine.

    Raises:
        KeyError: a variant has no settings here.
    """
    return [each for kind in variants() for each in settings[kind]]


def told(settings: SparseSettings) -> str:
    """The settings in words, without the tile and what else all rows of a variant share."""
    shown = {
        VSASettings: ("sparsity",),
        SLASettings: ("sparsity",),
        BSASettings: ("kept_queries", "mass"),
        STASettings: ("window",),
        NABLASettings: ("mass",),
    }[type(settings)]
    return ", ".join(f"{name} {_value(getattr(settings, name))}" for name in shown)


def _value(value: float | tuple[int, ...]) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
