"""The metrics of fastvideo_core.quality against scikit-image, closed forms, and lpips itself."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny import normal, seeded
from torch import Tensor

from fastvideo_core import LoadError, RequestError
from fastvideo_core.quality import Comparison, FrameQuality, compare, lpips, psnr, ssim

SHAPE = (3, 3, 24, 37)


def video(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Smooth random frames in 0..1: noise blurred over 5 pixels, so that SSIM has structure to see."""
    blurred = torch.nn.functional.avg_pool2d(normal(shape, seed), 5, stride=1, padding=2)
    return (0.5 + blurred).clamp(0, 1)


def near(a: Tensor, amount: float) -> Tensor:
    return (a + amount * normal(tuple(a.shape), 99)).clamp(0, 1)


def images(frames: Tensor) -> list[np.ndarray]:
    """(T, 3, H, W) as scikit-image reads it: (H, W, 3) each."""
    return list(frames.permute(0, 2, 3, 1).double().numpy())


@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize("amount", [0.001, 0.05, 0.5])
def test_ssim_is_scikit_images_per_frame(amount: float, data_range: float) -> None:
    a = video(1)
    a, b = a * data_range, near(a, amount) * data_range
    expected = [
        structural_similarity(
            x, y, data_range=data_range, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(images(a), images(b), strict=True)
    ]
    assert ssim(a, b, data_range).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_of_frames_as_small_as_the_window_is_scikit_images() -> None:
    a = video(2, (1, 3, 11, 11))
    b = near(a, 0.1)
    (x,), (y,) = images(a), images(b)
    expected = structural_similarity(
        x, y, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(a, b, 1.0)[0]) == pytest.approx(expected, abs=1e-12)


def test_psnr_is_scikit_images_per_frame() -> None:
    a = video(3)
    b = near(a, 0.05)
    expected = [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(images(a), images(b), strict=True)]
    assert psnr(a, b, 1.0).tolist() == pytest.approx(expected, abs=1e-10)


def test_psnr_of_a_constant_difference() -> None:
    # An error of 0.1 everywhere: 10 * log10(1 / 0.01) = 20 dB; at twice the data range 10 * log10(4) = 6.02 dB more.
    a, b = torch.full(SHAPE, 0.5, dtype=torch.float64), torch.full(SHAPE, 0.6, dtype=torch.float64)
    assert psnr(a, b, 1.0).tolist() == pytest.approx([20.0] * 3)
    assert psnr(a, b, 2.0).tolist() == pytest.approx([20 + 10 * math.log10(4)] * 3)


def test_equal_videos_have_infinite_psnr_and_ssim_one() -> None:
    a = video(4)
    assert psnr(a, a, 1.0).tolist() == [math.inf] * 3
    assert ssim(a, a, 1.0).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


def test_half_precision_frames_are_measured_in_float64() -> None:
    a, b = video(5).half(), near(video(5), 0.1).half()
    assert torch.equal(ssim(a, b, 1.0), ssim(a.double(), b.double(), 1.0))
    assert torch.equal(psnr(a, b, 1.0), psnr(a.double(), b.double(), 1.0))


@pytest.mark.parametrize("size", [(10, 30), (30, 10)])
def test_frames_smaller_than_the_window_are_refused(size: tuple[int, int]) -> None:
    small = torch.rand(1, 3, *size)
    with pytest.raises(RequestError, match="smaller than SSIM's window of 11 x 11"):
        ssim(small, small, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "data_range", "message"),
    [
        (torch.rand(2, 3, 12, 12), torch.rand(3, 3, 12, 12), 1.0, "of one size"),
        (torch.rand(2, 12, 12, 3), torch.rand(2, 12, 12, 3), 1.0, r"must be \(frames, 3, height, width\)"),
        (torch.rand(0, 3, 12, 12), torch.rand(0, 3, 12, 12), 1.0, r"must be \(frames, 3, height, width\)"),
        (torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12) * 255, 1.0, "outside of 0..1: state its data range"),
        (torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12) - 0.5, 1.0, "The second video has values from"),
        (torch.full((1, 3, 12, 12), math.nan), torch.rand(1, 3, 12, 12), 1.0, "The first video has values from nan"),
        (torch.zeros(1, 3, 12, 12, dtype=torch.uint8), torch.rand(1, 3, 12, 12), 1.0, "first video is torch.uint8"),
        (torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12), 0.0, "data_range is 0"),
    ],
)
def test_videos_that_cannot_be_compared_are_refused(a: Tensor, b: Tensor, data_range: float, message: str) -> None:
    for metric in (psnr, ssim):
        with pytest.raises(RequestError, match=message):
            metric(a, b, data_range)


def test_comparison_holds_every_frame_and_their_mean_and_worst() -> None:
    a = video(6)
    b = torch.stack([near(a, amount)[i] for i, amount in enumerate((0.01, 0.2, 0.05))])
    measured = compare(a, b)
    assert measured.data_range == 1.0
    assert [frame.psnr for frame in measured.frames] == psnr(a, b, 1.0).tolist()
    assert [frame.ssim for frame in measured.frames] == ssim(a, b, 1.0).tolist()
    assert measured.mean.psnr == pytest.approx(float(psnr(a, b, 1.0).mean()))
    assert measured.mean.ssim == pytest.approx(float(ssim(a, b, 1.0).mean()))
    assert (measured.worst.psnr, measured.worst.ssim) == (measured.frames[1].psnr, measured.frames[1].ssim)
    assert measured.worst.lpips is measured.mean.lpips is None


def test_mean_psnr_is_over_the_frames_that_differ() -> None:
    frames = tuple(FrameQuality(psnr=value, ssim=1.0) for value in (math.inf, 30.0, 20.0))
    assert Comparison(data_range=1.0, frames=frames).mean.psnr == 25.0
    assert Comparison(data_range=1.0, frames=frames[:1]).mean.psnr == math.inf


def test_json_is_strict_and_complete() -> None:
    a = video(7)
    b = torch.cat([a[:1], near(a, 0.1)[1:]])
    told = json.loads(compare(a, b).json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["data_range"] == 1.0
    assert told["frames"][0] == {"psnr": None, "ssim": pytest.approx(1.0), "lpips": None}
    assert told["worst"]["psnr"] == min(frame["psnr"] for frame in told["frames"][1:])
    assert len(told["frames"]) == 3


def test_lpips_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)  # what Python itself does for a module that cannot be imported
    with pytest.raises(RequestError, match="pip install lpips"):
        lpips(video(8), video(8), 1.0)


def test_lpips_never_downloads_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("lpips", reason="the lpips package is not installed")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(LoadError, match="AlexNet's weights"):
        lpips(video(8), video(8), 1.0)
    assert list(tmp_path.iterdir()) == []


def test_lpips_is_the_packages_per_frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On an AlexNet with random weights, put where torchvision looks for the trained ones."""
    package = pytest.importorskip("lpips", reason="the lpips package is not installed")
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    url = models.AlexNet_Weights.IMAGENET1K_V1.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(seeded(0, models.alexnet).state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    a = video(8, (2, 3, 64, 64)) * 255
    b = near(video(8, (2, 3, 64, 64)), 0.1) * 255
    with torch.no_grad():
        expected = package.LPIPS(net="alex", verbose=False)(a / 127.5 - 1, b / 127.5 - 1).flatten()
    measured = lpips(a, b, 255.0)
    assert measured.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert compare(a, b, 255.0, perceptual=True).worst.lpips == float(measured.max())
    assert lpips(a, a, 255.0).tolist() == [0.0, 0.0]
