"""Which ratio table fits a model: one that was measured on its own weights, else the published one of its variant."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import LoadError
from ..wan.loading.keys import some
from ..wan.variants import WanVariant
from .fingerprint import SAME, Fingerprint, joined_name
from .ratios import RatioTable, published_tables, read_table
from .settings import MagCacheSettings

CALIBRATED = MagCacheSettings(threshold=0.12, max_skips=2, retention=0.2, trend=0.7)
"""What "auto" means with a table that recommends nothing: chosen on the demo models, of 20 and 40 steps (BENCHMARKS.md)."""


def recommended(table: RatioTable) -> MagCacheSettings:
    """The first of the table's presets: what its authors use."""
    return next(iter(table.presets.values()), CALIBRATED)


def ratio_table(
    weights: Sequence[Fingerprint],
    folders: Sequence[Path],
    variants: Sequence[WanVariant],
    *,
    two_experts: bool,
    pixels: int,
    first_frame: bool,
) -> RatioTable:
    """The table of a model.

    Args:
        weights: of the model's experts, the low-noise one's last, or of one of two.
        folders: where calibrated tables lie.
        variants: what the model may be, as `recognise` tells.
        two_experts: whether the generation has two; a table of one expert is of no use to it, nor the other way round.
        pixels: width * height of a frame of the video, which tells Wan 2.1 I2V 480P from 720P: their networks have one size.
        first_frame: whether a first frame is given as latents, for which TI2V 5B has a table of its own.

    Raises:
        LoadError: there is none, or it cannot be read.
    """
    measured = calibrated_tables(weights, folders, two_experts)
    if measured:
        return read_table(measured[0])
    tables = published_tables()
    for row in sorted(variants, key=lambda row: abs(row.width * row.height - pixels)):
        name = f"{row.name}_{'i2v' if first_frame else 't2v'}" if row.first_frame else row.name
        if name in tables:
            return tables[name]
    known = " or ".join(row.title for row in variants)
    broken = [str(file) for file in _files(folders) if _table(file) is None]
    raise LoadError(
        f"MagCache has no ratio table for this model ({known or 'not a published size'}, weights {joined_name(weights)}): "
        "neither a published one nor one that was measured on it. Calibrate it: one generation with FastVideo Calibrate "
        "MagCache, or `fastvideo_core.step_cache.calibrate`, makes a table that is found from then on."
        + (f" These files are no ratio tables: {some(broken)}." if broken else "")
    )


def calibrated_tables(weights: Sequence[Fingerprint], folders: Sequence[Path], two_experts: bool) -> list[Path]:
    """The files that were measured on these weights, or on a pair of experts that they are one of; the best one first.

    Those of the very file come before those of the same checkpoint in another precision, the nearest of these first, and of equal
    ones the latest. Files without a fingerprint, of earlier versions, are known by their names.
    """
    wanted = [network.name for network in weights]
    files = sorted(_files(folders), key=lambda file: -file.stat().st_mtime)
    own = [file for file in files if _parts(wanted, file.stem.split("_"), two_experts)]
    if own:
        return own
    agreements = {file: _agreement(weights, table.weights, two_experts) for file in files if (table := _table(file))}
    like = [file for file, agreement in agreements.items() if agreement >= SAME]
    return sorted(like, key=lambda file: -agreements[file])


def _files(folders: Sequence[Path]) -> list[Path]:
    return [file for folder in folders for file in folder.glob("*.json")]


def _table(file: Path) -> RatioTable | None:
    """None for a broken file, which must not stand in the way of other models' tables."""
    try:
        return read_table(file)
    except LoadError:
        return None


def _parts(wanted: Sequence[str], measured: Sequence[str], two_experts: bool) -> bool:
    """Whether a table of `measured` networks serves the `wanted` ones: all of them, or one of two."""
    return len(measured) == 1 + two_experts and (list(wanted) == list(measured) or (len(wanted) == 1 and wanted[0] in measured))


def _agreement(wanted: Sequence[Fingerprint], measured: Sequence[Fingerprint], two_experts: bool) -> float:
    """The same by fingerprint: of the network that agrees least."""
    if len(measured) != 1 + two_experts:
        return 0.0
    if len(wanted) == 1:
        return max(wanted[0].agreement(network) for network in measured)
    if len(wanted) != len(measured):
        return 0.0
    return min(one.agreement(other) for one, other in zip(wanted, measured, strict=True))
