"""Pixels of an image file, as viewers and ComfyUI's LoadImage node show it: upright, whatever its depth."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import LoadError

if TYPE_CHECKING:
    from PIL.Image import Image

WHITES = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}
"""What white may be in a file of floats or 32-bit integers, which does not say it: the smallest that no pixel exceeds."""


def read_image(path: Path) -> "Image":
    """The first frame in 8-bit RGB, turned as its EXIF data says, transparency dropped.

    Raises:
        LoadError: there is no such file, it is no image, broken or too large, or its pixels are out of any range.
    """
    from PIL import Image, ImageOps

    if not path.is_file():
        raise LoadError(f"There is no image {path}.")
    try:
        # From memory: Pillow garbles a turned TIFF that it maps from disk.
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes())))
        return _in_8_bits(image, path).convert("RGB")
    except Image.DecompressionBombError as error:
        raise LoadError(f"The image {path} is too large to be read: {error} Scale it down to about the video's size.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises of broken files, by format
        raise LoadError(f"{path} is no image that can be read: {error}. Save it anew, as PNG or JPEG.") from error


def _in_8_bits(image: "Image", path: Path) -> "Image":
    """Pillow cuts deeper greys off at 255."""
    import numpy
    from PIL import Image

    if image.mode not in WHITES and not image.mode.startswith("I;16"):
        return image
    pixels = numpy.asarray(image).astype(numpy.float64)
    low, high = float(pixels.min()), float(pixels.max())
    white = next((white for white in WHITES.get(image.mode, (65535.0,)) if low >= 0 and high <= white), None)
    if white is None:
        raise LoadError(f"The image {path} has pixels from {low:g} to {high:g}: save it with values in 0..255, as PNG or JPEG.")
    return Image.fromarray((pixels * (255 / white)).round().astype(numpy.uint8))
