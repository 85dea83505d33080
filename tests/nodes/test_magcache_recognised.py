"""Which published ratio table a native generation gets: the variant is recognised, not asked."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from caching import module_of

from fastvideo_core import LoadError

pytestmark = pytest.mark.usefixtures("direct")

SIZES = {"1.3B": {"dim": 1536, "layers": 30}, "5B": {"dim": 3072, "layers": 30}, "14B": {"dim": 5120, "layers": 40}}


def table(host: Any, model: Any, size: str, width: int = 832, height: int = 480, **changes: Any) -> str:
    """The table of a run of a network of that size, which lends its weights from a tiny one that nobody measured."""
    facts = {name: changes.pop(name) for name in tuple(changes) if name in ("name", "in_channels", "image_tokens", "plain")}
    generation = module_of(host, "native.generation").generation_of(
        _Guider(model), torch.ones(1, 16, 21, height // 8, width // 8), torch.linspace(1, 0, 9), None
    )
    known = replace(generation.facts, **SIZES[size], **facts)
    if size == "5B":
        known = replace(known, in_channels=48, latent_channels=48)
    return str(module_of(host, "native.magcache").table_of(replace(generation, facts=known, **changes)).name)


class _Guider:
    def __init__(self, model: Any) -> None:
        self.model_patcher, self.cfg = model, 5.0


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ({"size": "1.3B"}, "wan2.1_t2v_1.3B"),
        ({"size": "1.3B", "partial": True}, "wan2.1_t2v_1.3B"),
        ({"size": "14B"}, "wan2.1_t2v_14B"),
        ({"size": "14B", "partial": True}, "wan2.2_t2v_A14B"),
        ({"size": "14B", "in_channels": 36, "image_tokens": 257}, "wan2.1_i2v_480p_14B"),
        ({"size": "14B", "in_channels": 36, "image_tokens": 257, "width": 1280, "height": 720}, "wan2.1_i2v_720p_14B"),
        ({"size": "14B", "in_channels": 36, "partial": True}, "wan2.2_i2v_A14B"),
        ({"size": "5B"}, "wan2.2_ti2v_5B_t2v"),
        ({"size": "5B", "first_frame": True}, "wan2.2_ti2v_5B_i2v"),
        ({"size": "1.3B", "name": "WAN21_Vace", "plain": False}, "wan2.1_vace_1.3B"),
        ({"size": "14B", "name": "WAN21_Vace", "plain": False}, "wan2.1_vace_14B"),
    ],
    ids=str,
)
def test_variants(comfy: Any, load_wan: Any, run: dict[str, Any], name: str) -> None:
    assert table(comfy, load_wan("t2v", 8), **run) == name


@pytest.mark.parametrize(
    "run",
    [
        {"size": "14B", "in_channels": 36},
        {"size": "14B", "in_channels": 36, "image_tokens": 514},
        {"size": "14B", "name": "WAN22_Animate", "plain": False},
        {"size": "14B", "name": "WAN21_Vace", "plain": False, "partial": True},
    ],
    ids=["one expert of I2V A14B alone", "first and last frame", "Animate", "VACE of two experts"],
)
def test_networks_without_a_published_table_are_to_be_calibrated(comfy: Any, load_wan: Any, run: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=r"no ratio table for this model.*Calibrate it"):
        table(comfy, load_wan("t2v", 8), **run)


@pytest.mark.parametrize(
    ("noise", "last", "partial"), [(1.0, 0.0, False), (1.0, 0.3, True), (0.0, 0.0, True)], ids=["whole", "first", "second"]
)
def test_a_run_that_begins_or_ends_inside_a_schedule_is_a_part(
    comfy: Any, load_wan: Any, noise: float, last: float, partial: bool
) -> None:
    """As KSampler (Advanced) with return_with_leftover_noise, and without add_noise."""
    sigmas = torch.linspace(1, last, 5)
    read = module_of(comfy, "native.generation").generation_of
    assert read(_Guider(load_wan("t2v", 8)), torch.full((1, 16, 3, 8, 8), noise), sigmas, None).partial is partial
