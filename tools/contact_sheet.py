"""A contact sheet: one row of frames for each video, evenly spread in time."""

from pathlib import Path

import av
from PIL import Image

COLUMNS, EDGE, GAP = 9, 128, 4


def contact_sheet(videos: list[Path], sheet: Path) -> None:
    """Writes `sheet`, a PNG. The frames keep their pixels: they are enlarged without smoothing."""
    image = Image.new("RGB", (COLUMNS * (EDGE + GAP) - GAP, len(videos) * (EDGE + GAP) - GAP), "white")
    for row, video in enumerate(videos):
        with av.open(str(video)) as file:
            frames = [frame.to_image() for frame in file.decode(video=0)]
        for column in range(COLUMNS):
            frame = frames[column * (len(frames) - 1) // (COLUMNS - 1)]
            frame = frame.resize((EDGE, EDGE), Image.Resampling.NEAREST)
            image.paste(frame, (column * (EDGE + GAP), row * (EDGE + GAP)))
    image.save(sheet)
