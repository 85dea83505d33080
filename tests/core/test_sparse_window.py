"""STA and NABLA: the kernels compute what their references state."""

import pytest
import sparse_cases as cases
import torch

from fastvideo_core.attention.sparse import FlexKernel, Inputs, NABLASettings, SparseSettings, STASettings, TileGrid, nabla, sta
from fastvideo_core.attention.sparse.window import window_map
from fastvideo_core.errors import RequestError

Size = tuple[int, int, int]


def attend(given: Inputs, size: Size, settings: SparseSettings) -> tuple[torch.Tensor, float]:
    attended = settings.prepare(size, torch.device("cpu"), FlexKernel(compiled=False))(given)
    return attended.out, float(attended.density)


@cases.EVERY_SIZE
@pytest.mark.parametrize("window", [(1, 1, 1), (3, 3, 3), (2, 1, 5)])
@pytest.mark.parametrize("tile", [(2, 2, 2), (4, 4, 4)])
def test_sta_computes_what_its_reference_states(size: Size, window: Size, tile: Size) -> None:
    given, settings = cases.inputs(size), STASettings(window=window, tile=tile)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], sta.reference(given, size, settings)) < 1e-14


@cases.EVERY_SIZE
@pytest.mark.parametrize("window", [None, (1, 1, 1), (3, 1, 3)])
@pytest.mark.parametrize("tile", [(1, 4, 4), (2, 2, 2)])
def test_nabla_computes_what_its_reference_states(size: Size, window: Size | None, tile: Size) -> None:
    given, settings = cases.inputs(size), NABLASettings(mass=0.7, window=window, tile=tile)
    exact = nabla.reference(given, TileGrid.build(size, tile), settings)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], exact) < 1e-14


@cases.EVERY_SIZE
@pytest.mark.parametrize(
    "settings", [STASettings(window=(99, 99, 99)), NABLASettings(mass=1), NABLASettings(mass=0, window=(99, 99, 99))], ids=str
)
def test_everything_in_the_window_or_all_mass_is_dense(size: Size, settings: SparseSettings) -> None:
    given = cases.inputs(size)
    out, density = attend(given, size, settings)
    assert cases.tiny.relative_error(out, cases.dense(given)) < 1e-14
    assert density == 1.0


def test_at_the_edge_stas_window_keeps_its_size_and_nablas_is_cut() -> None:
    grid = TileGrid.build((1, 1, 5), (1, 1, 1))
    assert window_map(grid, (1, 1, 3), clamped=True)[0, 0].sum(-1).tolist() == [3, 3, 3, 3, 3]
    assert window_map(grid, (1, 1, 3), clamped=False)[0, 0].sum(-1).tolist() == [2, 3, 3, 3, 2]


def test_a_window_reaches_along_every_axis_by_itself() -> None:
    grid = TileGrid.build((3, 4, 5), (1, 1, 1))
    near = window_map(grid, (1, 1, 3), clamped=False)[0, 0].reshape(3, 4, 5, 3, 4, 5)
    assert near[1, 2, 3].nonzero().tolist() == [[1, 2, 2], [1, 2, 3], [1, 2, 4]]


@pytest.mark.parametrize("wrong", [{"window": (3, 0, 3)}, {"window": (3, 3, 3), "tile": (6, 8, -1)}])
def test_wrong_settings_are_refused(wrong: dict[str, Size]) -> None:
    for settings in (STASettings, NABLASettings):
        with pytest.raises(RequestError):
            settings(**wrong)
