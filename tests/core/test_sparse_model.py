"""Sparse attention of a whole model: with the backends, the step cache and the trained weights that it may have."""

from dataclasses import replace

import pytest
import tiny
import tiny_model
import torch
from magcache_run import flat_table
from torch import nn

from fastvideo_core import GuidanceSettings, RunReport, SamplingRequest, WanModel, with_magcache
from fastvideo_core.attention.experts import AttentionSettings
from fastvideo_core.attention.sparse import SLASettings, SparseSchedule, VSASettings
from fastvideo_core.step_cache import MagCacheSettings

REQUEST = SamplingRequest(steps=3, shift=5.0, guidance_scale=4.0, guidance=GuidanceSettings(mode="batched"))
SPARSE = SparseSchedule(settings=VSASettings(sparsity=0.5, tile=(1, 2, 2)), kernel="gather")


def generated(model: WanModel, **options: object) -> tuple[torch.Tensor, RunReport]:
    size = tiny_model.small(model)
    generation = model.generate(REQUEST, model.condition("a cat", "", size), size, **options)
    *_, last = generation
    return last.latents, generation.report()


@pytest.fixture
def model() -> WanModel:
    return replace(tiny_model.model_of("t2v"), transformers={"single": tiny.t2v()})


def test_the_report_tells_what_was_sparse(model: WanModel) -> None:
    latents, report = generated(model, sparse=SPARSE)
    assert not torch.equal(latents, generated(model)[0])
    (sparse,) = report.sparse
    assert (sparse.variant, sparse.settings["sparsity"], sparse.sparse_calls, sparse.dense_calls) == ("VSA", 0.5, 6, 0)
    assert sparse.line() in report.text() and '"density"' in report.json()


def test_the_chosen_backend_stays_in_dense_steps(model: WanModel) -> None:
    _, report = generated(model, sparse=replace(SPARSE, dense_steps=1), attention=AttentionSettings(self_attention="sdpa_math"))
    assert {part.part: part.calls for part in report.attention} == {"self-attention": 2, "cross-attention": 6}
    assert (report.sparse[0].sparse_calls, report.sparse[0].dense_calls) == (4, 2)


@pytest.mark.parametrize(("attribute", "variant", "width"), [("to_gate_compress", "VSA", 24), ("proj_l", "SLA", 12)])
def test_trained_weights_that_take_no_part_are_told(model: WanModel, attribute: str, variant: str, width: int) -> None:
    for block in model.transformers["single"].blocks:
        setattr(block.attn1, attribute, nn.Linear(width, width).requires_grad_(False))
    settings = {"VSA": SPARSE.settings, "SLA": SLASettings(sparsity=0.5)}
    for name, chosen in settings.items():
        notes = generated(model, sparse=replace(SPARSE, settings=chosen))[1].notes
        assert any(f"trained with sparse attention {variant}" in note for note in notes) == (name != variant)
    assert f"trained with sparse attention {variant}" in generated(model)[1].text()


def test_a_step_cache_works_around_it(model: WanModel) -> None:
    """Both on: blocks that the cache skips have no self-attention to make sparse."""
    schedule = REQUEST.plan()
    cache = with_magcache(MagCacheSettings(threshold=9, max_skips=1, retention=0.3), table=flat_table(schedule))
    _, report = generated(model, sparse=SPARSE, cache=cache)
    assert report.caches[0].blocks_ran == report.sparse[0].sparse_calls < report.caches[0].blocks_asked
