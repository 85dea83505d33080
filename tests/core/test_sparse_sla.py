"""SLA's kernel computes what its reference states."""

from dataclasses import replace

import pytest
import sparse_cases as cases
import torch
from torch import nn

from fastvideo_core.attention.sparse import FlexKernel, Inputs, SLASettings
from fastvideo_core.attention.sparse.sla import FEATURE_MAPS, reference
from fastvideo_core.errors import RequestError

Size = tuple[int, int, int]


def with_projection(given: Inputs) -> Inputs:
    layer = nn.Linear(cases.HEAD_DIM, cases.HEAD_DIM, dtype=given.q.dtype)
    with torch.no_grad():
        layer.weight.copy_(cases.tiny.normal((cases.HEAD_DIM, cases.HEAD_DIM), 7))
        layer.bias.copy_(cases.tiny.normal((cases.HEAD_DIM,), 8))
    return replace(given, projection=layer.requires_grad_(False))


def attend(given: Inputs, size: Size, settings: SLASettings) -> tuple[torch.Tensor, float]:
    attended = settings.prepare(size, torch.device("cpu"), FlexKernel(compiled=False))(given)
    return attended.out, float(attended.density)


@cases.EVERY_SIZE
@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_both_branches_are_what_the_reference_states(size: Size, feature_map: str, sparsity: float) -> None:
    given, settings = with_projection(cases.inputs(size)), SLASettings(sparsity=sparsity, feature_map=feature_map)
    assert cases.tiny.relative_error(attend(given, size, settings)[0], reference(given, size, settings)) < 1e-14


@cases.EVERY_SIZE
def test_float32_errs_by_its_rounding_alone(size: Size) -> None:
    given, settings = with_projection(cases.inputs(size, dtype=torch.float32)), SLASettings(sparsity=0.7)
    out, _ = attend(given, size, settings)
    given.projection.double()
    assert cases.tiny.relative_error(out, reference(cases.as_float64(given), size, settings)) < cases.budget(torch.float32)


@cases.EVERY_SIZE
def test_sparsity_0_without_a_projection_is_dense(size: Size) -> None:
    given = cases.inputs(size)
    out, density = attend(given, size, SLASettings(sparsity=0))
    assert cases.tiny.relative_error(out, cases.dense(given)) < 1e-14
    assert density == 1.0


def test_a_float32_projection_serves_half_precision_tokens() -> None:
    size = cases.SIZES["ragged"]
    given = replace(with_projection(cases.inputs(size, dtype=torch.float32)), **tokens(cases.inputs(size, dtype=torch.bfloat16)))
    out, _ = attend(given, size, SLASettings(sparsity=0.5))
    given.projection.double()
    assert out.dtype == torch.bfloat16
    exact = reference(cases.as_float64(given), size, SLASettings(sparsity=0.5))
    assert cases.tiny.relative_error(out, exact) < cases.budget(torch.bfloat16)


def tokens(given: Inputs) -> dict[str, torch.Tensor]:
    return {"q": given.q, "k": given.k, "v": given.v}


@pytest.mark.parametrize(("sparsity", "blocks", "kept"), [(0.9, 640, 64), (0.9, 9, 1), (1, 5, 1), (0, 5, 5), (0.5, 5, 2)])
def test_how_many_blocks_are_kept(sparsity: float, blocks: int, kept: int) -> None:
    assert SLASettings(sparsity=sparsity).kept(blocks) == kept


@pytest.mark.parametrize("wrong", [{"sparsity": 2}, {"sparsity": 0.5, "feature_map": "gelu"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="SLA's"):
        SLASettings(**wrong)
