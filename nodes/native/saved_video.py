"""Videos as files in ComfyUI's output folder, under the host's own names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types
from torch import Tensor

from fastvideo_core import RequestError, whole_file, writing


@dataclass(frozen=True)
class SavedVideo:
    """filename, subfolder: in the output folder."""

    filename: str
    subfolder: str
    path: str

    @property
    def name(self) -> str:
        return os.path.join(self.subfolder, self.filename)

    @property
    def video(self) -> Any:
        """VIDEO of the file."""
        return InputImpl.VideoFromFile(self.path)


def check_prefix(prefix: str) -> None:
    """Raises RequestError where files of this name would not be in ComfyUI's output folder."""
    folder, name = os.path.split(os.path.normpath(prefix.replace("\0", "..")))
    inside = name.strip(".") and not os.path.isabs(folder) and os.pardir not in Path(folder).parts and not Path(folder).drive
    if not inside:
        raise RequestError(
            f"filename_prefix is {prefix!r:.80}: give how the files' names begin, in ComfyUI's output folder or a folder in it."
        )


def save_video(frames: Tensor, fps: float, prefix: str, told: Mapping[str, Any]) -> SavedVideo:
    """An mp4 with h264.

    Args:
        frames: (T, H, W, 3) in 0..1.
        told: for the file's metadata, as long as ComfyUI writes any.

    Raises:
        RequestError: it cannot be written.
    """
    height, width = frames.shape[1:3]
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    components = Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(fps))
    metadata = None if args.disable_metadata else dict(told)
    encoded = BytesIO()
    InputImpl.VideoFromComponents(components).save_to(encoded, format=Types.VideoContainer.MP4, metadata=metadata)
    path = _taken(Path(folder), name, number)
    try:
        with whole_file(path) as part:
            part.write_bytes(encoded.getbuffer())
    except BaseException:
        path.unlink()
        raise
    return SavedVideo(path.name, subfolder, str(path))


def _taken(folder: Path, name: str, number: int) -> Path:
    """The first of these files that is not there, made empty: another ComfyUI may save into the folder at the same time."""
    path = folder / f"{name}_{number:05}_.mp4"
    with writing(path):
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return _taken(folder, name, number + 1)
    return path
