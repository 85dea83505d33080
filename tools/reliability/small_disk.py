"""A server whose output, previews, states and ratio tables lie on a small disk, which can be filled."""

import os
from pathlib import Path
from typing import Any

from tools.comfy_server import ComfyServer

from .servers import process

SIZE = 8 * 2**20
"""Bytes."""
OUTPUT, MODELS = "output", ("fastvideo_states", "fastvideo_ratios")
"""Folders on it: ComfyUI's, and those of its models."""


class SmallDisk(ComfyServer):
    """The disk is mounted in a name space of the server's own, which takes no rights where Linux lets users have those."""

    def __init__(self, tree: Path, base: Path, **more: Any) -> None:
        self.disk = base / "disk"
        super().__init__(tree, base, output=self.disk / OUTPUT, **more)

    def start(self, timeout: float = 300.0) -> None:
        for name in MODELS:
            link = self.base / "models" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.disk / name)
        super().start(timeout)

    def files(self, prompt_id: str) -> list[Path]:
        return [self.seen() / file.relative_to(self.disk) for file in super().files(prompt_id)]

    def seen(self) -> Path:
        """The disk as it is seen from here."""
        return Path(f"/proc/{process(self).pid}/root{self.disk}")

    def saved(self) -> set[Path]:
        """All files on it but those of previews."""
        return {file for name in (OUTPUT, *MODELS) for file in (self.seen() / name).rglob("*") if file.is_file()}

    def used(self) -> int:
        """Bytes."""
        found = os.statvfs(self.seen())
        return (found.f_blocks - found.f_bfree) * found.f_bsize

    def fill(self, room: int) -> None:
        """So many bytes are left, to a page."""
        filler = self.seen() / "filler"
        filler.unlink(missing_ok=True)
        found = os.statvfs(self.seen())
        filler.write_bytes(bytes(max(0, found.f_bavail * found.f_bsize - room)))

    def empty(self) -> None:
        (self.seen() / "filler").unlink()

    def _command(self) -> list[str]:
        folders = " ".join(str(self.disk / name) for name in (OUTPUT, *MODELS))
        mounted = f'mount -t tmpfs -o size={SIZE} none {self.disk} && mkdir {folders} && exec "$0" "$@"'
        apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted]
        return [*apart, *super()._command(), "--temp-directory", str(self.disk)]
