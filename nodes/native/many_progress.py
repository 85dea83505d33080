"""How far many videos are: one bar for all of them, and a line of text for each at work."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.utils
import latent_preview

from fastvideo_core import counted

from .progress import show


class ManyProgress:
    """videos: how many; steps: of each."""

    def __init__(self, videos: int, steps: int) -> None:
        self.videos, self.steps = videos, steps
        self._bar = comfy.utils.ProgressBar(videos * steps)
        self._made: dict[int, int] = {}  # by the videos' numbers
        self._lines: dict[int, str] = {}  # of those at work
        self._ended = 0

    def of(self, number: int, check: Callable[[], None]) -> "OneOfMany":
        """check: is asked before the first step of this video and after each; what it raises ends it."""
        return OneOfMany(self, number, check)

    def line(self, number: int, text: str) -> None:
        self._lines[number] = text
        self._show()

    def step(self, number: int, made: int, preview: Any = None) -> None:
        self._made[number] = made
        self._bar.update_absolute(sum(self._made.values()), preview=preview)

    def ended(self, number: int) -> None:
        """With a video or without one."""
        self._ended += 1
        self._lines.pop(number, None)
        self.step(number, self.steps)
        self._show()

    def _show(self) -> None:
        lines = [f"{number}: {text}" for number, text in sorted(self._lines.items())]
        show("\n".join([f"{self._ended} of {counted(self.videos, 'video')}", *lines]))


@dataclass(frozen=True)
class OneOfMany:
    """As `Progress`."""

    many: ManyProgress
    number: int
    check: Callable[[], None]

    def tell(self, text: str) -> None:
        self.many.line(self.number, text)

    def prepare(self, model: Any, steps: int) -> Any:
        self.check()
        return partial(self._step, latent_preview.get_previewer(model.load_device, model.model.latent_format))

    def _step(self, previewer: Any, step: int, denoised: Any, *_: Any) -> None:
        preview = previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None
        self.many.step(self.number, step + 1, preview)
        self.check()
