"""BSA's kernel computes what its reference states, and it engages for Wan's sizes."""

import pytest
import sparse_cases as cases
import torch

from fastvideo_core.attention.sparse import BSASettings, FlexKernel, Inputs, TileGrid
from fastvideo_core.attention.sparse.bsa import nearest_kept, reference
from fastvideo_core.errors import RequestError

Size = tuple[int, int, int]
DENSE = BSASettings(kept_queries=1, mass=1)


def attend(given: Inputs, size: Size, settings: BSASettings) -> tuple[torch.Tensor, float]:
    attended = settings.prepare(size, torch.device("cpu"), FlexKernel(compiled=False))(given)
    return attended.out, float(attended.density)


@cases.EVERY_SIZE
@pytest.mark.parametrize(
    "settings",
    [BSASettings(), BSASettings(kept_queries=0.3, mass=0.5, least_tiles=1), BSASettings(kept_queries=0, mass=0.2), DENSE],
    ids=["authors", "sparser", "one query", "dense"],
)
def test_the_kernel_computes_what_the_reference_states(size: Size, settings: BSASettings) -> None:
    given = cases.inputs(size)
    exact = reference(given, TileGrid.build(size, settings.tile), settings)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], exact) < 1e-14


@cases.EVERY_SIZE
def test_float32_errs_by_its_rounding_alone(size: Size) -> None:
    given = cases.inputs(size, dtype=torch.float32)
    exact = reference(cases.as_float64(given), TileGrid.build(size, (4, 4, 4)), BSASettings())
    assert cases.tiny.relative_error(attend(given, size, BSASettings())[0], exact) < cases.budget(torch.float32)


@cases.EVERY_SIZE
def test_all_queries_and_all_mass_are_dense(size: Size) -> None:
    given = cases.inputs(size)
    out, density = attend(given, size, DENSE)
    assert cases.tiny.relative_error(out, cases.dense(given)) < 1e-14
    assert density == 1.0


def test_pruned_queries_cost_nothing_and_copy_a_neighbour() -> None:
    """Half of the queries over all keys is half of the pairs, and at least half of the outputs are copies."""
    size = (4, 4, 8)
    out, density = attend(cases.inputs(size), size, BSASettings(kept_queries=0.5, mass=1))
    assert density == 0.5
    assert len(out[0, :, 0].unique(dim=0)) == 64


def test_it_engages_for_the_latents_of_81_frames_at_480p_ratio() -> None:
    """21 latent frames never divide by 4."""
    size = (21, 6, 10)
    assert 0 < attend(cases.inputs(size, dtype=torch.float32), size, BSASettings(mass=0.6))[1] < 0.5


def test_the_nearest_kept_position_is_the_earlier_of_two() -> None:
    assert nearest_kept(torch.tensor([[1, 4, 6, 9]]), 9).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize("wrong", [{"kept_queries": 1.1}, {"mass": -1}, {"least_tiles": 0}, {"tile": (0, 1, 1)}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="BSA's"):
        BSASettings(**wrong)
