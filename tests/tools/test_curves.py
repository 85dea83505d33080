"""The curves compare like with like: the same clips, blocks counted where they compute, and each contender leaves no trace."""

from pathlib import Path

import pytest
import torch

from tools.bench import curves, curves_page
from tools.bench.curve_contenders import CACHE_DIT, DIFFUSERS, OUR_DBCACHE, OUR_MAGCACHE, curve_points, diffusers_ratios, hooked
from tools.bench.curves import BlockCounter, Point, beaten
from tools.demo_model.engine import demo_engine

STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def point(name: str, cut: float, ssim: float, case: str = "t2v, 20 steps") -> Point:
    return Point(case=case, name=name, setting="auto", cut=cut, ratio=0.5, ssim=ssim, worst_ssim=ssim, psnr=40.0)


@pytest.mark.parametrize("kind", ["t2v", "two experts"])
def test_blocks_are_counted_where_they_compute_and_afterwards_the_network_is_as_before(kind) -> None:
    demo = demo_engine(kind)
    request, batch = demo.request(STEPS), demo.batch(1)
    with BlockCounter(demo) as counter:
        dense = demo.latents(request, batch)
        assert counter.taken() == 4 * STEPS
        for contender in curve_points(demo, request.plan()):
            counter.taken()
            with contender.opened(request.plan()) as cache:
                demo.latents(request, batch, cache)
            ran = counter.taken()
            assert ran <= 4 * STEPS
            assert cache is None or ran == cache.report().blocks_ran
    assert torch.equal(demo.latents(request, batch), dense)


def test_diffusers_measures_one_list_of_ratios_per_expert() -> None:
    demo = demo_engine("two experts")
    schedule = demo.request(STEPS).plan()
    networks = [demo.model.transformers[phase.expert] for phase in schedule.phases]
    steps = [len(phase.steps) for phase in schedule.phases]
    ratios = diffusers_ratios(demo, schedule, networks, steps)
    assert [len(row) for row in ratios] == steps
    assert all(row[0] == 1.0 for row in ratios)
    with hooked(networks, steps, threshold=9.0, ratios=ratios), BlockCounter(demo) as counter:
        demo.latents(demo.request(STEPS), demo.batch(1))
    assert 0 < counter.taken() < 4 * STEPS


def test_a_rivals_point_needs_one_of_ours_that_is_no_worse_in_either() -> None:
    theirs = point(DIFFUSERS, 0.5, 0.98)
    assert beaten([theirs, point(OUR_MAGCACHE, 0.5, 0.98)]) == []
    assert beaten([theirs, point(OUR_MAGCACHE, 0.49, 0.99), point(OUR_MAGCACHE, 0.6, 0.97)]) == [theirs]
    assert beaten([theirs, point(OUR_DBCACHE, 0.6, 0.99)]) == [theirs]
    assert beaten([theirs, point(OUR_MAGCACHE, 0.6, 0.99, "i2v, 20 steps")]) == [theirs]


def test_the_page_names_the_points_where_the_claim_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    monkeypatch.setattr(curves_page, "PLOT", tmp_path / "curves.png")
    monkeypatch.setattr(curves_page, "OUTPUT", tmp_path)
    monkeypatch.setattr(curves_page, "update_page", lambda block, text: page.write_text(text))
    points = [point(CACHE_DIT, 0.3, 0.99), point(OUR_DBCACHE, 0.2, 1.0)]
    curves_page.report(points, 8, "command")
    assert "No point of ours saves as many block calls at as high an SSIM as: cache-dit auto (t2v, 20 steps)." in page.read_text()
    assert "| t2v, 20 steps | cache-dit | auto | 30.0 % | 0.50 | 0.9900 |" in page.read_text()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "one of FastVideo DBCache" in curves_page.verdict([point(OUR_DBCACHE, 0.4, 1.0), *points])


def test_a_clip_goes_through_every_contender() -> None:
    demo = demo_engine("t2v")
    contenders = curve_points(demo, demo.request(STEPS).plan())[::5]
    with BlockCounter(demo) as counter:
        samples = curves._clip(demo, STEPS, demo.batch(1), contenders, counter)
    assert len(samples) == len(contenders)
    assert all(0 <= sample.cut < 1 and sample.ratio > 0 and 0 < sample.ssim <= 1.0 + 1e-9 for sample in samples)
