"""Frames to a video file."""

from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .errors import RequestError

QUALITY = "12"
"""H.264's constant rate factor: 0 is lossless, about 18 looks so (FFmpeg's H.264 encoding guide)."""


def save_mp4(frames: Tensor, path: Path, fps: int) -> None:
    """H.264, which keeps colour at half the resolution: to look at, not to measure.

    Args:
        frames: (F, 3, H, W) in 0..1, H and W even.

    Raises:
        RequestError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise RequestError("A video file is written by PyAV, which is not installed: pip install av") from error
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for image in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
