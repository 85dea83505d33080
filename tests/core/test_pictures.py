"""Pictures: what they say is what was measured, and one can read it."""

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastvideo_core import CachePhaseReport, CacheReport, PhaseReport, RunReport
from fastvideo_core.pictures import Curve, Panel, curves, difference, frame_panels, plot, run, run_picture, side_by_side
from fastvideo_core.pictures.figure import COLOURS, PAGE
from fastvideo_core.quality import Comparison, FrameQuality
from fastvideo_core.report import faster

HIGH = PhaseReport(expert="high_noise", steps=4, first_sigma=1.0, guidance_scale=4.0, calls={"2": 4}, reused_negative=0)
LOW = PhaseReport(expert="low_noise", steps=6, first_sigma=0.8, guidance_scale=3.0, calls={"2": 6}, reused_negative=0)
DENSE = RunReport(
    model="demo", variant="tiny", solver="euler", sigmas=(1.0,) * 11, guidance_mode="batched", guidance_reason="as asked",
    phases=(HIGH, LOW), latent_shape=(1, 16, 3, 8, 8), device="cpu", dtype="float32", seed=1,
    step_seconds=(30.0, *(2.0,) * 3, *(1.0,) * 6), total_seconds=42.0, peak_memory_bytes=3 * 2**29,
)  # fmt: skip


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def bars(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def cached(*plans: tuple[int, str, str]) -> CacheReport:
    """plans: first step, branch, letters."""
    phases = tuple(
        CachePhaseReport(expert="", first_step=first, branch=branch, plan=plan, computed=0, skipped=0, reasons={})
        for first, branch, plan in plans
    )
    return CacheReport(
        name="MagCache", settings={}, phases=phases, aside="", bypassed=0, blocks_ran=6, blocks_asked=10, peak_bytes=0
    )


class TestRun:
    def test_summary_stands_first_then_memory_and_what_would_be_faster(self) -> None:
        told = words(run.drawn(DENSE, "dense")).splitlines()
        assert told[:2] == ["dense", DENSE.headline]
        assert told[2] == "peak memory 1.50 GiB on cpu"
        assert told[3].startswith("28 s more in first steps") and told[4].startswith("faster: a guidance gate")

    def test_bars_have_the_seconds_of_steps_and_the_colours_of_experts(self) -> None:
        axes = bars(run.drawn(DENSE))
        assert [bar.get_height() for bar in axes.patches] == [run.TALLEST * 2, *(2.0,) * 3, *(1.0,) * 6]
        colours = [bar.get_facecolor()[:3] for bar in axes.patches]
        assert colours == [to_rgb(COLOURS[0])] * 4 + [to_rgb(COLOURS[1])] * 6
        assert {text.get_text() for text in axes.texts} == {"30 s", "high-noise, scale 4", "low-noise, scale 3"}
        assert axes.get_legend() is None

    def test_skipped_and_partly_computed_steps_look_otherwise(self) -> None:
        cache = cached((0, "both", "CSCS"), (4, "positive", "CCSCSC"), (4, "negative", "CSSC--"))
        gated = replace(LOW, calls={"1": 4, "2": 3}, reused_negative=2)
        axes = bars(run.drawn(replace(DENSE, phases=(HIGH, gated), caches=(cache,))))
        assert [bar.get_hatch() is not None for bar in axes.patches] == [False] * 5 + [True] + [False] * 3 + [True]
        assert [bar.get_facecolor()[:3] == to_rgb(PAGE) for bar in axes.patches] == [
            False, True, False, True, False, False, True, False, True, False,
        ]  # fmt: skip
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["computed", "partly", "skipped"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"step_seconds": (), "total_seconds": 0.0},
            {"step_seconds": (0.0,), "first_step": 9},
            {"peak_memory_bytes": None, "step_seconds": (1.0,) * 3},
        ],
        ids=["no step", "one step", "stopped"],
    )
    def test_runs_that_were_stopped_or_resumed_have_a_picture(self, changes: dict[str, object]) -> None:
        picture = run_picture(replace(DENSE, **changes))
        assert picture.shape[1:] == (720, 3) and 0 <= float(picture.min()) < float(picture.max()) <= 1


class TestFaster:
    def test_branches_in_one_call_tell_a_bound(self) -> None:
        # 6 steps of both before the gate; of the 4 behind it, half of a second each
        assert faster(DENSE)[0] == "a guidance gate at 0.6 would save up to 2.0 s"
        assert faster(DENSE)[1] == "a step cache would save up to 1.0 s in each step that it skips"
        assert faster(DENSE)[2] == "a few-step LoRA's 4 steps would take up to 6.0 s in all"

    def test_branches_in_two_calls_tell_what_one_takes(self) -> None:
        apart = replace(DENSE, phases=(replace(HIGH, calls={"1": 8}), replace(LOW, calls={"1": 12})))
        assert faster(apart)[0] == "a guidance gate at 0.6 would save about 2.0 s"

    def test_steps_without_guidance_tell_what_one_branch_takes(self) -> None:
        alone = replace(LOW, steps=2, guidance_scale=1.0, calls={"1": 2})
        last = replace(LOW, steps=4, calls={"2": 4})
        seconds = (*(2.0,) * 4, 0.8, 0.8, *(1.0,) * 4)
        assert faster(replace(DENSE, phases=(HIGH, alone, last), step_seconds=seconds))[0].endswith("about 0.60 s")

    @pytest.mark.parametrize(
        ("changes", "left"),
        [
            ({"caches": (cached(),)}, ["gate", "few-step"]),
            ({"phases": (HIGH, replace(LOW, calls={"1": 4, "2": 2}, reused_negative=4))}, ["cache", "few-step"]),
            ({"step_seconds": (1.0,) * 4}, []),
            ({"phases": (replace(HIGH, calls={"1": 4}), replace(LOW, calls={"1": 6}))}, []),
        ],
        ids=["a cache", "a gate", "few steps", "no guidance"],
    )
    def test_what_a_run_has_is_not_proposed(self, changes: dict[str, object], left: list[str]) -> None:
        told = faster(replace(DENSE, **changes))
        assert len(told) == len(left) and all(word in sentence for word, sentence in zip(left, told, strict=True))


class TestCurves:
    @pytest.mark.parametrize("values", [(0.99999981, 0.99999999), (33.0, 33.0), (0.0, 1234.5), (1e-14, 3e-14), (1 - 2**-53, 1.0)])
    def test_ticks_differ_from_each_other(self, values: tuple[float, float]) -> None:
        panel = Panel(title="t", x="frame", y="y", curves=[Curve(name="a", points=list(enumerate(values)))])
        figure = curves.drawn([panel])
        figure.draw_without_rendering()
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            labels = [tick.label1.get_text() for tick in axis.get_major_ticks()]
            assert len(labels) > 1 and len(set(labels)) == len(labels), labels

    def test_every_curve_has_its_colour_and_infinite_points_are_left_out(self) -> None:
        one = Curve(name="a", points=[(0, 1.0), (1, math.inf), (2, 0.5)])
        none = Curve(name="none", points=[(0, math.inf)])
        panel = Panel(title="t", x="x", y="y", curves=[one, none, Curve(name="b", points=[(0, 0.5), (2, 1.0)])])
        picture = plot([panel, replace(panel, curves=[one])])
        assert picture.shape == (2 * curves.HEIGHT, curves.WIDTH, 3)
        orange = (picture - torch.tensor(to_rgb(COLOURS[1]))).abs().amax(dim=2) < 1e-2
        assert bool(orange[: curves.HEIGHT].any()) and not bool(orange[curves.HEIGHT :].any())

    def test_equal_videos_are_said_in_words(self) -> None:
        same, other = (FrameQuality(psnr=math.inf, ssim=1.0), FrameQuality(psnr=30.0, ssim=0.9))
        equal, near = (Comparison(data_range=1.0, frames=frames) for frames in ((same, same), (same, other)))
        (panel,) = frame_panels({"a": equal})
        assert (panel.curves, panel.note) == ([], "a equals the reference, pixel by pixel")
        psnr, ssim = frame_panels({"a": equal, "b": near})
        assert [curve.name for curve in (*psnr.curves, *ssim.curves)] == ["b", "b"]
        assert "a equals" in psnr.note and "b: 1 of 2 frames equal" in psnr.note and "b:" not in ssim.note
        assert plot([panel, psnr]).shape == (2 * curves.HEIGHT, curves.WIDTH, 3)


class TestSideBySide:
    def test_names_stand_above_and_pixels_stay(self) -> None:
        videos = {name: torch.rand(2, 3, 48, 64) for name in ("dense", "magcache threshold=0.2 max_skips=3", "$x$")}
        joined = side_by_side(videos)
        strip = joined.shape[2] - 48
        assert joined.shape == (2, 3, 48 + strip, 192) and strip % 2 == 0
        assert torch.equal(joined[:, :, strip:], torch.cat(list(videos.values()), dim=3))
        names = joined[0, :, :strip]
        shares = [names[..., 64 * place : 64 * (place + 1)] for place in range(3)]
        assert all(float(share.max() - share.min()) > 0.3 for share in shares)
        assert all(float(share[..., -2:].amax() - share[..., -2:].amin()) < 0.05 for share in shares)  # each within its own

    def test_a_difference_is_cut_off_at_the_data_range(self) -> None:
        a, b = torch.full((1, 3, 2, 2), 200.0), torch.full((1, 3, 2, 2), 100.0)
        assert float(difference(a, b, 2.0, 255.0).max()) == 200.0
        assert float(difference(b, a, 4.0, 255.0).max()) == 255.0
