"""Files that are whole or not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from no_room import no_room
from state_cases import state_after

from fastvideo_core import RequestError, save_mp4, whole_file
from fastvideo_core.pictures import save_png

LIMIT = 1000
"""Bytes."""
VIDEO = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SAVERS: dict[str, Callable[[Path], Any]] = {
    "clip.mp4": lambda path: save_mp4(VIDEO, path, 16),
    "plot.png": lambda path: save_png(VIDEO[0].movedim(0, -1), path),
    "state.safetensors": lambda path: state_after(1).save(path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_what_has_no_room_says_so_and_leaves_the_file_that_was_there(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    SAVERS[name](file)
    before = file.read_bytes()
    assert len(before) > LIMIT
    with no_room(LIMIT), pytest.raises(RequestError, match=rf"{name} cannot be written: .*room on its disk"):
        SAVERS[name](file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "table.json") as part:
        part.write_text("{")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
