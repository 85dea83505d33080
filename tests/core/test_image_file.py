"""Image files as pixels: every depth, and what is broken or too large in one error. Against ComfyUI's own node: tests/nodes."""

import random
import struct
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fastvideo_core import LoadError, VideoSize
from fastvideo_core.commands.arguments import _image
from fastvideo_core.image_file import read_image

RAMP = numpy.linspace(0, 1, 16 * 32).reshape(16, 32)


@pytest.mark.parametrize(
    ("white", "dtype", "suffix"),
    [(255, "uint8", "png"), (255, "uint8", "tif"), (65535, "uint16", "png"), (65535, "uint16", "tif"), (255, "int32", "tif"),
     (65535, "int32", "tif"), (1, "float32", "tif"), (255, "float32", "tif"), (65535, "float32", "tif")],
)  # fmt: skip
def test_grey_of_every_depth(white: int, dtype: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"ramp.{suffix}"
    scaled = RAMP * white
    Image.fromarray((scaled if dtype == "float32" else scaled.round()).astype(dtype)).save(file)
    image = read_image(file)
    assert image.mode == "RGB"
    assert numpy.abs(numpy.asarray(image) / 255 - RAMP[:, :, None]).max() <= 0.5001 / 255


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 7e4), (0.0, numpy.nan), (0.0, numpy.inf)])
def test_pixels_out_of_any_range_are_refused(values: tuple[float, float], tmp_path: Path) -> None:
    file = tmp_path / "wild.tif"
    Image.fromarray(numpy.array([values, values], dtype=numpy.float32)).save(file)
    with pytest.raises(LoadError, match=r"wild\.tif has pixels from .* save it with values in 0\.\.255"):
        read_image(file)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_it_stands_upright(orientation: int, corner: tuple[int, int], mode: str, suffix: str, tmp_path: Path) -> None:
    """Where the stored first pixel is then shown, by EXIF 2.3's table of orientations."""
    stored = Image.new(mode, (6, 4))
    stored.putpixel((0, 0), (255,) * len(mode) if len(mode) > 1 else 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned.{suffix}", exif=exif)
    shown = numpy.asarray(read_image(tmp_path / f"turned.{suffix}"))
    assert shown.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    assert shown[corner].tolist() == [255, 255, 255] and int(shown.astype(int).sum()) == 3 * 255


def test_a_photo_of_a_phone_is_turned_on_the_command_line(tmp_path: Path) -> None:
    photo, exif = Image.new("RGB", (64, 64)), Image.Exif()
    photo.paste("white", (0, 0, 64, 8))
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    pixels = _image(tmp_path / "photo.jpg", VideoSize(width=64, height=64, frames=5))[0].mean(0)
    assert pixels[:, -8:].mean() > 0.99 and pixels[:, :-12].mean() < 0.01


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of tags
def test_broken_files_are_one_kind_of_error(tmp_path: Path) -> None:
    """Bytes changed, cut and doubled in each format: an image, or words."""
    rng, image = random.Random(0), Image.fromarray((torch.rand(24, 24, 3) * 255).byte().numpy())
    outcomes = []
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp"):
        whole = tmp_path / f"whole.{suffix}"
        image.save(whole)
        for number in range(60):
            data = bytearray(whole.read_bytes())
            for _ in range(rng.choice([1, 4, 40])):
                data[rng.randrange(len(data))] = rng.randrange(256)
            broken = tmp_path / f"broken.{suffix}"
            broken.write_bytes(data[: rng.randrange(len(data))] if number % 3 == 0 else data)
            try:
                outcomes.append(read_image(broken).mode)
            except LoadError as error:
                assert broken.name in str(error)
                outcomes.append("refused")
    assert set(outcomes) == {"RGB", "refused"}


def test_a_huge_image_is_refused_unread(tmp_path: Path) -> None:
    """A header that promises 20000 x 20000 pixels."""
    Image.new("RGB", (1, 1)).save(tmp_path / "huge.bmp")
    data = bytearray((tmp_path / "huge.bmp").read_bytes())
    data[18:26] = struct.pack("<ii", 20_000, 20_000)
    (tmp_path / "huge.bmp").write_bytes(data)
    with pytest.raises(LoadError, match=r"huge\.bmp is too large to be read: .*400000000 pixels.* Scale it down"):
        read_image(tmp_path / "huge.bmp")


@pytest.mark.parametrize("name", ["nowhere.png", "folder"])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LoadError, match=f"There is no image .*{name}"):
        read_image(tmp_path / name)
