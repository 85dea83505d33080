"""VSA's kernel computes what its reference states, and its neutral settings are dense attention."""

import pytest
import sparse_cases as cases
import torch

from fastvideo_core.attention.sparse import FlexKernel, Inputs, TileGrid, VSASettings
from fastvideo_core.attention.sparse.reference import tile_means
from fastvideo_core.attention.sparse.variant import top_tiles
from fastvideo_core.attention.sparse.vsa import reference
from fastvideo_core.errors import RequestError

Size = tuple[int, int, int]
MATERIALISED = FlexKernel(compiled=False)


def attend(given: Inputs, size: Size, settings: VSASettings) -> tuple[torch.Tensor, float]:
    attended = settings.prepare(size, torch.device("cpu"), MATERIALISED)(given)
    return attended.out, float(attended.density)


@cases.EVERY_SIZE
@pytest.mark.parametrize("gate", [False, True], ids=["gateless", "gated"])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.8, 1.0])
def test_the_kernel_computes_what_the_reference_states(size: Size, gate: bool, sparsity: float) -> None:
    given, settings = cases.inputs(size, gate=gate), VSASettings(sparsity=sparsity)
    exact = reference(given, TileGrid.build(size, settings.tile), settings)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], exact) < 1e-14


@cases.EVERY_SIZE
def test_float32_errs_by_its_rounding_alone(size: Size) -> None:
    given, settings = cases.inputs(size, dtype=torch.float32, gate=True), VSASettings(sparsity=0.5)
    exact = reference(cases.as_float64(given), TileGrid.build(size, settings.tile), settings)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], exact) < cases.budget(torch.float32)


@cases.EVERY_SIZE
def test_sparsity_0_without_a_gate_is_dense(size: Size) -> None:
    given = cases.inputs(size)
    out, density = attend(given, size, VSASettings(sparsity=0))
    assert cases.tiny.relative_error(out, cases.dense(given)) < 1e-14
    assert density == 1.0


def test_a_zero_gate_is_no_gate() -> None:
    size = (5, 6, 9)
    given = cases.inputs(size)
    zero = Inputs(given.q, given.k, given.v, gate=torch.zeros_like(given.q))
    settings = VSASettings(sparsity=0.5)
    assert torch.equal(attend(zero, size, settings)[0], attend(given, size, settings)[0])


def test_the_gate_adds_attention_between_tiles() -> None:
    """In a video of one tile, coarse attention is the mean of all values."""
    size = (3, 4, 2)
    given = cases.inputs(size)
    gated = Inputs(given.q, given.k, given.v, gate=torch.full_like(given.q, 2.0))
    difference = attend(gated, size, VSASettings(sparsity=0.5))[0] - attend(given, size, VSASettings(sparsity=0.5))[0]
    torch.testing.assert_close(difference, 2 * given.v.mean(1, keepdim=True).expand_as(difference), rtol=1e-12, atol=1e-12)


def test_density_is_the_share_of_pairs() -> None:
    size, settings = (5, 6, 9), VSASettings(sparsity=0.7)
    given, grid = cases.inputs(size), TileGrid.build((5, 6, 9), (4, 4, 4))
    means = [tile_means(x, grid) for x in (given.q, given.k)]
    tile_map = top_tiles(means[0] @ means[1].transpose(-1, -2), settings.kept(grid.count))
    pairs = tile_map[:, :, grid.tile_of][..., grid.tile_of].double().mean()
    assert attend(given, size, settings)[1] == pytest.approx(float(pairs), rel=1e-7)


@pytest.mark.parametrize(("sparsity", "tiles", "kept"), [(0, 10, 10), (0.8, 10, 2), (0.81, 10, 2), (1, 10, 1), (0.9, 3, 1)])
def test_how_many_tiles_are_kept(sparsity: float, tiles: int, kept: int) -> None:
    assert VSASettings(sparsity=sparsity).kept(tiles) == kept


def test_of_equal_tiles_the_first_are_kept_and_exactly_so_many() -> None:
    assert top_tiles(torch.zeros(1, 1, 2, 40), 3).nonzero()[:, -1].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("wrong", [{"sparsity": -0.1}, {"sparsity": 1.5}, {"sparsity": 0.5, "tile": (4, 4, 0)}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="VSA's"):
        VSASettings(**wrong)
