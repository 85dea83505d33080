"""The command line's images against core's LoadImage node."""

from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from fastvideo_core.image_file import read_image

WIDTH, HEIGHT = 64, 32
ACROSS, DOWN = numpy.meshgrid(numpy.linspace(0, 1, WIDTH), numpy.linspace(0, 1, HEIGHT))
LOSSY = ("jpg", "webp")
TURNED = dict(zip(range(2, 9), [
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
], strict=True))  # fmt: skip
"""How an orientation of EXIF 2.3 is shown upright."""
FILES = [
    ("RGB", "png"), ("RGB", "jpg"), ("RGB", "webp"), ("RGB", "tif"), ("RGBA", "png"), ("RGBA", "tif"), ("L", "png"), ("L", "jpg"),
    ("LA", "png"), ("P", "png"), ("I;16", "png"), ("I;16", "tif"), ("F", "tif"),
]  # fmt: skip


def picture(mode: str) -> Image.Image:
    """Smooth, and different in each corner."""
    if mode == "F":
        return Image.fromarray((200 * ACROSS * DOWN).round().astype(numpy.float32))
    if mode == "I;16":
        return Image.fromarray((60_000 * (0.7 * ACROSS + 0.3 * DOWN)).astype(numpy.uint16))
    planes = numpy.stack([ACROSS, DOWN, (1 - ACROSS) * DOWN, 0.25 + 0.5 * ACROSS], axis=-1)
    image = Image.fromarray((planes * 255).round().astype(numpy.uint8))
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)


def saved(folder: Path, mode: str, suffix: str, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = folder / f"turned_{mode.replace(';', '')}_{orientation}.{suffix}"
    picture(mode).save(file, exif=exif)
    return file


def shown_by_core(file: Path) -> Any:
    import nodes

    return nodes.LoadImage().load_image(file.name)[0][0].numpy()


def alike(pixels: Any, core: Any, suffix: str, most: float) -> bool:
    """Every pixel within `most` 256ths; on average where the file is lossy."""
    if pixels.shape != core.shape:
        return False
    error = 255 * numpy.abs(pixels - core)
    return bool(error.mean() < 3 if suffix in LOSSY else error.max() < most)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "suffix"), FILES)
def test_pixels_are_those_of_the_upright_picture_in_core(comfy: Any, mode: str, suffix: str, orientation: int) -> None:
    """Which core reads as an 8-bit PNG, where it knows no doubt."""
    image = picture(mode)
    if mode in ("I;16", "F"):
        image = Image.fromarray((numpy.asarray(image) / (257 if mode == "I;16" else 1)).round().astype(numpy.uint8))
    image = image if orientation == 1 else image.transpose(TURNED[orientation])
    image.convert("RGB").save(comfy.input_folder() / "upright.png")
    pixels = numpy.asarray(read_image(saved(comfy.input_folder(), mode, suffix, orientation))) / 255
    core = shown_by_core(comfy.input_folder() / "upright.png")
    assert alike(pixels, core, suffix, 0.51)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("mode", "suffix"), FILES)
def test_pixels_are_those_of_the_same_file_in_core(comfy: Any, mode: str, suffix: str, orientation: int) -> None:
    """Up to what two decoders differ by. Core turns mirrored images in older versions only (orientations 2, 4, 5, 7), and cuts
    16 bits off at 8 in those, where it also garbles turned TIFFs."""
    from comfyui_version import __version__

    file = saved(comfy.input_folder(), mode, suffix, orientation)
    as_shown = release(__version__) >= (0, 30) or not (mode == "I;16" or (suffix == "tif" and mode == "RGBA"))
    if as_shown:
        pixels, core = numpy.asarray(read_image(file)) / 255, shown_by_core(file)
        assert alike(pixels, core, suffix, 1.5)


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
