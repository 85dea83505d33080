"""Thumbnails for the template browser: what a workflow is called, and below it its graph in small, or frames that it made."""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tools.workflows.canvas import TITLE

SIZE, SCALE = 400, 2  # drawn larger, then reduced: smooth lines
MARGIN, TOP = 24 * SCALE, 180 * SCALE
LARGE = 42 * SCALE
BACKGROUND, PANEL, NODE, OWN_NODE = "#14181f", "#1f2a37", "#465364", "#2f7fb8"
TEXT, BLUE, FAINT = "#f2f5f8", "#7cc4f5", "#9fb0c0"
# LiteGraph's colours of these sockets.
LINKS = {
    "MODEL": "#b39ddb", "CLIP": "#ffd500", "VAE": "#ff6e6e", "CONDITIONING": "#ffa931", "LATENT": "#ff9cf9", "IMAGE": "#64b5f6",
}  # fmt: skip
SHEET_COLUMNS, WIDE_SHEET_COLUMNS, SHEET_ROWS = 5, 3, 3  # of square frames, of two side by side


def graph_thumbnail(workflow: dict[str, Any]) -> Image.Image:
    """Heading and graph; the pack's own nodes stand out."""
    image, draw = _card(workflow)
    _draw_graph(draw, workflow)
    return _reduced(image)


def video_thumbnail(workflow: dict[str, Any], frames: Sequence[Image.Image]) -> Image.Image:
    """Heading and a contact sheet of frames, in order and evenly spread."""
    image, _ = _card(workflow)
    across, down = frames[0].size
    columns = SHEET_COLUMNS if across == down else WIDE_SHEET_COLUMNS
    count = columns * SHEET_ROWS
    gap = 4 * SCALE
    width = (SIZE * SCALE - 2 * MARGIN + gap) // columns - gap
    height = width * down // across
    for place in range(count):
        frame = frames[place * (len(frames) - 1) // (count - 1)]
        row, column = divmod(place, columns)
        corner = (MARGIN + column * (width + gap), TOP - 8 * SCALE + row * (height + gap))
        image.paste(frame.resize((width, height), Image.Resampling.BICUBIC), corner)
    return _reduced(image)


def _card(workflow: dict[str, Any]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty card with the heading of the workflow's note: two lines of title, one of details."""
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    (note,) = (node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    title, details = note["widgets_values"][0].splitlines()[:2]
    words = title.removeprefix("## ").split()
    small = ImageFont.load_default(15 * SCALE)
    draw.text((MARGIN, 22 * SCALE), " ".join(words[:2]), TEXT, _fitting(" ".join(words[:2])))
    draw.text((MARGIN, 72 * SCALE), " ".join(words[2:]), BLUE, _fitting(" ".join(words[2:])))
    draw.text((MARGIN, 134 * SCALE), re.split(", with |, as |[.] ", details)[0], FAINT, small)
    return image, draw


def _fitting(line: str) -> Any:
    """The largest font of a heading in which this line fits."""
    large = ImageFont.load_default(LARGE)
    return ImageFont.load_default(LARGE * min(1.0, (SIZE * SCALE - 2 * MARGIN) / large.getlength(line)))


def _draw_graph(draw: ImageDraw.ImageDraw, workflow: dict[str, Any]) -> None:
    left, top, right, bottom = _bounds(workflow["groups"])
    room = SIZE * SCALE - 2 * MARGIN
    zoom = min(room / (right - left), (SIZE * SCALE - TOP - MARGIN) / (bottom - top))

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + (room - zoom * (right - left)) / 2 + zoom * (x - left), TOP + zoom * (y - top)

    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        draw.rounded_rectangle([*place(x, y), *place(x + width, y + height)], 4 * SCALE, PANEL)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, output, target, slot, kind in workflow["links"]:
        start, end = place(*_socket(nodes[source], output, right=True)), place(*_socket(nodes[target], slot, right=False))
        draw.line([start, end], LINKS.get(kind, FAINT), 2 * SCALE)
    for node in workflow["nodes"]:
        if node["type"] != "MarkdownNote":
            (x, y), (width, height) = node["pos"], node["size"]
            colour = OWN_NODE if node["type"].startswith("FastVideo") else NODE
            draw.rounded_rectangle([*place(x, y - TITLE), *place(x + width, y + height)], 3 * SCALE, colour)


def _bounds(groups: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    corners = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in groups)]
    lefts, tops, rights, bottoms = zip(*corners, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _socket(node: dict[str, Any], slot: int, right: bool) -> tuple[float, float]:
    return node["pos"][0] + (node["size"][0] if right else 0), node["pos"][1] + 14 + 20 * slot


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
