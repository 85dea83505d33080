"""FastVideo Compare: its figures are the metrics', its pictures show them, and what cannot be compared is refused."""

import json
from typing import Any

import pytest
import torch
from graphs import node, sampler_prompt
from torch import Tensor

from fastvideo_core import speed_up
from fastvideo_core.quality import compare
from tools.comfy_in_process import PromptFailed


def frames(seed: int = 0, count: int = 3, height: int = 24, width: int = 32) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def run(
    comfy: Any, reference: Tensor, candidate: Tensor, view: str = "side_by_side", amplify: float = 4.0, **reports: Any
) -> Any:
    compared = comfy.node_classes["FastVideoCompare"].execute(
        reference=reference, candidate=candidate, view=view, amplify=amplify, **reports
    )
    return compared.args


def test_figures_are_those_of_the_metrics(comfy: Any) -> None:
    a = frames()
    b = (a + 0.1 * frames(1)).clamp(0, 1)
    text, _, _, told = run(comfy, a, b)
    expected = compare(a.movedim(-1, 1), b.movedim(-1, 1))
    data = json.loads(told)
    assert data["mean"]["ssim"] == expected.mean.ssim and data["worst"]["psnr"] == expected.worst.psnr
    assert len(data["frames"]) == 3 and data["data_range"] == 1.0 and data["speed_up"] is None
    assert f"{expected.mean.psnr:.2f} dB" in text and f"{expected.worst.ssim:.4f}" in text
    assert "3 frames, data range 1" in text


def test_equal_videos(comfy: Any) -> None:
    text, _, video, told = run(comfy, frames(), frames(), "difference")
    assert "inf dB" in text and "1.0000" in text
    assert json.loads(told)["mean"]["psnr"] is None
    assert float(video.max()) == 0.0


def test_motion_of_both_is_told_and_a_video_moves_as_much_as_itself(comfy: Any) -> None:
    a = torch.nn.functional.avg_pool2d(frames(2, 1, 44, 80).movedim(-1, 1), 5, stride=1)  # a texture, which a window pans over
    slow, fast = (torch.cat([a[..., at : at + 60] for at in places]).movedim(1, -1) for places in ((0, 1, 2), (0, 2, 4)))
    text, _, _, told = run(comfy, slow, fast)
    data = json.loads(told)["motion"]
    assert data["ratio"] == pytest.approx(2, rel=0.05) and data["reference"]["magnitude"] == pytest.approx(1, rel=0.05)
    assert f"motion, pixels per frame, ratio {data['ratio']:.3f}" in text and "flicker of brightness" in text
    same = json.loads(run(comfy, slow, slow)[3])["motion"]
    assert same["ratio"] == 1 and same["reference"] == same["candidate"]


def test_video_shows_both_or_the_amplified_difference(comfy: Any) -> None:
    a, b = frames(0), frames(1)
    video = run(comfy, a, b)[2]
    assert video.shape[1] % 2 == 0  # as mp4 wants
    assert torch.equal(video[:, -a.shape[1] :], torch.cat([a, b], dim=2))
    assert not torch.equal(video[:, : -a.shape[1], :32], video[:, : -a.shape[1], 32:])  # their names
    assert torch.equal(run(comfy, a, b, "difference", 3.0)[2], ((a - b).abs() * 3).clamp(max=1))


def test_plot_is_an_image_that_changes_with_the_figures(comfy: Any) -> None:
    a = frames()
    near, far = (run(comfy, a, (a + amount * frames(1)).clamp(0, 1))[1] for amount in (0.05, 0.5))
    assert near.shape == far.shape and near.shape[0] == 1 and near.shape[-1] == 3
    assert 0 <= float(near.min()) < float(near.max()) <= 1
    assert not torch.equal(near, far)


def compared(**second: Any) -> Any:
    """A prompt with two samplers, the second one otherwise than the first, and both reports compared."""
    inputs = {**sampler_prompt()["5"]["inputs"], **second}
    return {
        **sampler_prompt(),
        "15": node("FastVideoSampler", **inputs),
        "20": node("EmptyImage", width=32, height=24, batch_size=2, color=0x808080),
        "21": node(
            "FastVideoCompare", reference=["20", 0], candidate=["20", 0], view="side_by_side", amplify=4.0,
            reference_report=["5", 1], candidate_report=["15", 1],
        ),
    }  # fmt: skip


def test_reports_tell_seconds_speed_up_and_what_was_skipped(prompts: Any) -> None:
    """Two real runs in one prompt."""
    prompts.reset()
    run = prompts.run(compared(steps=2), {"json": ("21", 3), "dense": ("5", 1), "fast": ("15", 1)})
    dense, fast = run.captured["dense"], run.captured["fast"]
    (shown,) = run.outputs["21"]["text"]
    first = shown.splitlines()[0]
    assert " s in place of " in first and f" s, speed-up {speed_up(dense, fast).text()}, SSIM 1.0000" in first
    assert "reference: 4 steps in " in shown and "candidate: 2 steps in " in shown and "earlier prompt" not in shown
    data = json.loads(run.captured["json"])
    assert data["reference"]["step_seconds"] == list(dense.step_seconds)
    assert data["speed_up"] == speed_up(dense, fast).claimed


def test_equal_settings_are_not_distinguished_and_a_kept_reference_is_named(prompts: Any) -> None:
    prompts.reset()
    first = prompts.run(compared(seed=5), {"dense": ("5", 1), "fast": ("15", 1)})
    assert first.captured["dense"].patches == first.captured["fast"].patches != ()
    (shown,) = first.outputs["21"]["text"]
    assert " s, speed-up not distinguishable (" in shown.splitlines()[0]
    again = prompts.run(compared(seed=6), {"dense": ("5", 1), "fast": ("15", 1)})
    (shown,) = again.outputs["21"]["text"]
    assert "note: the reference comes from an earlier prompt" in shown and "the candidate comes from" not in shown


@pytest.mark.parametrize(
    ("reference", "candidate", "said"),
    [
        (frames(), frames(count=2), "3 frames of 32 x 24 and the candidate 2 frames of 32 x 24"),
        (frames(), frames(width=48), "3 frames of 32 x 24 and the candidate 3 frames of 48 x 24"),
        (frames()[:0], frames()[:0], "reference is an image batch of shape"),
        (frames(), torch.rand(3, 24, 32, 4), "candidate is an image batch of shape"),
        (frames(height=8), frames(height=8), "smaller than SSIM's window"),
        (frames() * 2, frames(), r"The reference has values from .*images are floats in 0\.\.1"),
    ],
    ids=["lengths", "sizes", "empty", "transparency", "tiny", "range"],
)
def test_what_cannot_be_compared_is_refused(comfy: Any, reference: Tensor, candidate: Tensor, said: str) -> None:
    from fastvideo_core import RequestError

    with pytest.raises(RequestError, match=said):
        run(comfy, reference, candidate)


def test_a_report_that_is_none_is_refused(prompts: Any) -> None:
    prompts.reset()
    image = node("EmptyImage", width=32, height=24, batch_size=2, color=0)
    inputs = {"reference": ["1", 0], "candidate": ["1", 0], "view": "difference", "amplify": 4.0, "reference_report": 3}
    with pytest.raises(PromptFailed, match="reference_report input got 3 and needs a connection"):
        prompts.run({"1": image, "2": node("FastVideoCompare", **inputs)})


@pytest.mark.parametrize("method", ["bicubic", "lanczos", "bilinear"])
def test_videos_that_a_resize_made_overshoot_are_compared_as_people_see_them(comfy: Any, method: str) -> None:
    """Saving cuts them off at 0..1, and so do the figures, which say so."""
    from nodes import ImageScale

    a, b = (ImageScale().upscale(video, method, 48, 40, "disabled")[0] for video in (frames(), 0.9 * frames()))
    text, _, video, told = run(comfy, a, b)
    seen = [x.clamp(0, 1) for x in (a, b)]
    assert json.loads(told)["mean"]["ssim"] == compare(*(x.movedim(-1, 1) for x in seen)).mean.ssim
    assert torch.equal(video[:, -40:], torch.cat(seen, dim=2))
    assert (("reference: values from" in text), ("cut off at 0..1" in text)) == (method == "bicubic", method == "bicubic")


def test_frames_a_hair_above_1_are_no_matter(comfy: Any) -> None:
    a = frames()
    a[0, 0, 0, 0] = 1.0000001
    text = run(comfy, a, a)[0]
    assert "inf dB" in text and "cut off" not in text


def test_frames_that_are_not_numbers_are_refused(comfy: Any) -> None:
    from fastvideo_core import RequestError

    a = frames()
    a[0, 0, 0, 0] = torch.nan
    with pytest.raises(RequestError, match="The candidate has values from nan to nan"):
        run(comfy, frames(), a)
