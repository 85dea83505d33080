"""Frames to a video file."""

from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .checks import of_kind, whole
from .errors import RequestError
from .whole_file import whole_file

QUALITY = "12"
"""H.264's constant rate factor: 0 is lossless, about 18 looks so (FFmpeg's H.264 encoding guide)."""
SHAPE = "give (frames, 3, height, width) in 0..1, height and width even: of model.decode's (1, 3, F, H, W), [0].transpose(0, 1)."


def save_mp4(frames: Tensor, path: Path | str, fps: int) -> None:
    """An mp4 with H.264, which keeps colour at half the resolution: to look at, not to measure.

    Args:
        frames: (F, 3, H, W) in 0..1, H and W even.

    Raises:
        RequestError: PyAV is not installed, the frames are of another shape, or the file cannot be written.
    """
    of_kind("frames", frames, Tensor, SHAPE)
    if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape or frames.shape[2] % 2 or frames.shape[3] % 2:
        raise RequestError(f"The frames have shape {tuple(frames.shape)}: {SHAPE}")
    whole("fps", fps, "it is the frames per second, a whole number; Wan's are 16, TI2V-5B's 24.", least=1)
    try:
        import av
    except ModuleNotFoundError as error:
        raise RequestError("A video file is written by PyAV, which is not installed: pip install av") from error
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    with whole_file(Path(path)) as part, av.open(str(part), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for image in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
