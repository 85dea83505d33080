"""The sparse benchmark covers every variant, and its figures are those of the engine's own measurement."""

from pathlib import Path

import pytest
import torch

from fastvideo_core.attention.sparse import SLASettings, VSASettings, kernel_of, measured
from tools.bench import sparse, sparse_page
from tools.bench.sparse import OutputError, Result, Row, Video, output_errors, sparse_latents, video
from tools.bench.sparse_ladder import ON_CLIPS, TILE, TIMED, ladder, told, variants
from tools.bench.sparse_time import Timing, timings
from tools.demo_model.engine import demo_engine

STEPS = 4
SETTINGS = [VSASettings(sparsity=share, tile=TILE) for share in (0, 0.5, 0.8)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_variant_of_the_engine_is_compared_and_timed() -> None:
    assert {"BSA", "NABLA", "SLA", "STA", "VSA"} <= {kind.name for kind in variants()}
    for settings in (ON_CLIPS, TIMED):
        assert {type(each) for each in ladder(settings)} == set(variants())
        rows = [(each.name, told(each)) for each in ladder(settings)]
        assert len(set(rows)) == len(rows)


def test_output_errors_are_those_that_the_engine_measures() -> None:
    demo = demo_engine("t2v")
    batch = demo.batch(1)
    none, half, most = output_errors(demo, batch, SETTINGS, STEPS)
    assert max(none.early, none.late, none.worst_layer) < 1e-6
    assert none.density == 1
    assert 0 < half.late < most.late
    assert most.density == pytest.approx(0.2)
    (network,) = demo.model.transformers.values()
    with measured(network, sparse.TOKENS, SETTINGS, torch.device("cpu"), kernel_of("gather")) as errors:
        demo.latents(demo.request(STEPS), batch)
    assert most.worst_layer == pytest.approx(max(row.error for row in errors.rows() if row.settings == SETTINGS[2]))


def test_videos_are_compared_with_the_dense_ones() -> None:
    demo = demo_engine("t2v")
    batch = demo.batch(1)
    latents = demo.latents(demo.request(STEPS), batch)
    dense, report = sparse_latents(demo, batch, SETTINGS[2], STEPS, STEPS)
    assert torch.equal(dense, latents)
    assert (report.sparse_calls, report.density) == (0, None)
    assert torch.allclose(sparse_latents(demo, batch, SETTINGS[0], 0, STEPS)[0], latents, atol=1e-4)
    found = video(demo, batch, demo.frames(latents), SETTINGS[2], 1, STEPS)
    assert found.worst_ssim == found.ssim < 0.9999
    assert found.psnr < 60
    assert found.density == pytest.approx(0.2)
    assert 0 <= found.shown <= 4


def test_every_setting_is_timed_beside_dense_attention() -> None:
    found = timings((2, 8, 8), rounds=1, kernels=("gather",))
    assert [(row.variant, row.setting) for row in found] == [(each.name, told(each)) for each in ladder(TIMED)]
    assert all(row.seconds > 0 and row.ratio > 0 and 0 < row.density <= 1 for row in found)


def test_the_page_has_a_row_per_setting_and_says_what_it_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {}
    monkeypatch.setattr(sparse_page, "OUTPUT", tmp_path)
    monkeypatch.setattr(sparse_page, "update_page", written.__setitem__)
    error = OutputError(early=0.1234, late=7e-8, worst_layer=0.3, density=0.2)
    seen = (
        Video(ssim=0.91234, worst_ssim=0.8, psnr=33.33, shown=30, density=0.2),
        Video(ssim=0.99, worst_ssim=0.98, psnr=40, shown=32, density=0.2),
    )
    row = Row(kind="t2v", variant="SLA", setting=told(SLASettings(sparsity=0.5)), error=error, videos=seen)
    times = [
        Timing(variant="SLA", setting="sparsity 0.9", kernel=name, density=0.1, seconds=0.05, ratio=ratio)
        for name, ratio in (("flex", 0.25), ("gather", 0.5))
    ]
    sparse_page.report(Result([row], {"t2v": 32}, times), 8, "command")
    page = written["sparse"]
    videos = "0.9123 | 0.8000 | 33.3 dB | 30 | 0.9900 | 0.9800 | 40.0 dB | 32"
    assert f"| t2v | SLA | sparsity 0.5 | 20.0 % | 0.123 | 7e-08 | 0.300 | {videos} |" in page
    assert "| SLA | sparsity 0.9 | 10.0 % | 50 | 0.25 | 50 | 0.50 |" in page
    assert "The dense clips show: t2v 32 of 32." in page
    assert "What this does not show" in page
    assert (tmp_path / "sparse.json").is_file()
