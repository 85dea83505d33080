"""The picture that the demo's image-to-video starts from: the first frame of a clip of the demo's world."""

from PIL import Image

from tools.demo_model.world import Scene, render

SCENE = Scene("circle", "red", "navy", "right", centre=(32.0, 32.0), radius=11.0, travel=20.0, growth=2.0)


def first_frame() -> Image.Image:
    frame = render([SCENE])[0, :, 0]  # (3, 64, 64) in [-1, 1]
    pixels = ((frame + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy(), "RGB")
