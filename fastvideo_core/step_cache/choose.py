"""Which ratio table fits a model: one that was measured on its own weights, else the published one of its variant."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import LoadError
from ..wan.variants import WanVariant
from .ratios import RatioTable, published_tables, read_table
from .settings import MagCacheSettings

CALIBRATED = MagCacheSettings(threshold=0.12, max_skips=2, retention=0.2, trend=0.7)
"""What "auto" means with a table that recommends nothing: chosen on the demo models, of 20 and 40 steps (BENCHMARKS.md)."""


def recommended(table: RatioTable) -> MagCacheSettings:
    """The first of the table's presets: what its authors use."""
    return next(iter(table.presets.values()), CALIBRATED)


def ratio_table(
    weights: str, folders: Sequence[Path], variants: Sequence[WanVariant], *, two_experts: bool, pixels: int, first_frame: bool
) -> RatioTable:
    """The table of a model.

    Args:
        weights: `weights_hash`, or `network_hash` of one of two experts.
        folders: where calibrated tables lie, each as `weights_hash`.json; the latest one wins.
        variants: what the model may be, as `recognise` tells.
        two_experts: whether the generation has two; a table of one expert is of no use to it, nor the other way round.
        pixels: width * height of a frame of the video, which tells Wan 2.1 I2V 480P from 720P: their networks have one size.
        first_frame: whether a first frame is given as latents, for which TI2V 5B has a table of its own.

    Raises:
        LoadError: there is none, or it cannot be read.
    """
    measured = sorted(calibrated_tables(weights, folders, two_experts), key=lambda file: file.stat().st_mtime)
    if measured:
        return read_table(measured[-1])
    tables = published_tables()
    for row in sorted(variants, key=lambda row: abs(row.width * row.height - pixels)):
        name = f"{row.name}_{'i2v' if first_frame else 't2v'}" if row.first_frame else row.name
        if name in tables:
            return tables[name]
    known = " or ".join(row.title for row in variants)
    raise LoadError(
        f"MagCache has no ratio table for this model ({known or 'not a published size'}, weights {weights}): neither a "
        "published one nor one that was measured on it. Calibrate it: one generation with FastVideo Calibrate MagCache, or "
        "`fastvideo_core.step_cache.calibrate`, makes a table that is found from then on."
    )


def calibrated_tables(weights: str, folders: Sequence[Path], two_experts: bool) -> Iterator[Path]:
    """The files that were measured on these weights, or on a pair of experts that they are one of."""
    for folder in folders:
        for file in folder.glob("*.json"):
            hashes = file.stem.split("_")
            if len(hashes) == 1 + two_experts and (file.stem == weights or weights in hashes):
                yield file
