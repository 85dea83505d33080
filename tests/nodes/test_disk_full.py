"""Nodes that save, on a disk without room and beside another ComfyUI: the error says so, and no file is torn or overwritten."""

from pathlib import Path
from typing import Any

import pytest
import torch
from caching import module_of
from no_room import no_room

from tools.comfy_in_process import PromptFailed
from tools.reliability.disk import SAVERS

OURS = [name for name in SAVERS if name.startswith("FastVideo")]


@pytest.mark.parametrize("name", OURS)
def test_a_node_without_room_says_so_leaves_nothing_and_saves_with_room(comfy: Any, name: str) -> None:
    before = files(comfy)
    comfy.reset()
    with no_room(), pytest.raises(PromptFailed, match=rf"^{name}: fastvideo_core\.errors\.RequestError: .* cannot be written: "):
        comfy.run(SAVERS[name]())
    assert files(comfy) == before
    comfy.run(SAVERS[name]())
    saved = files(comfy) - before
    assert saved or name == "FastVideoRunReport"
    for file in saved:  # a table of the demo's ratios would be read by others
        file.unlink()


def files(host: Any) -> set[Path]:
    """Of output and models; previews go when ComfyUI starts."""
    return {file for name in ("output", "models") for file in (host.base / name).rglob("*") if file.is_file()}


def test_two_that_save_at_once_save_two_files(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were given the same number, for neither file was there."""
    saved_video = module_of(comfy, "native.saved_video")
    monkeypatch.setattr(saved_video.folder_paths, "get_save_image_path", lambda *_: (str(tmp_path), "clip", 7, "", "clip"))
    saved = [saved_video.save_video(torch.zeros(1, 16, 16, 3), 8.0, "clip", {}) for _ in range(2)]
    assert [video.filename for video in saved] == ["clip_00007_.mp4", "clip_00008_.mp4"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [video.filename for video in saved]
