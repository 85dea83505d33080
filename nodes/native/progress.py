"""The line that ComfyUI's page shows on a node while it works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import latent_preview
from comfy_execution.utils import get_executing_context
from server import PromptServer

from fastvideo_core import counted


def show(text: str) -> None:
    """On the node that runs now, to whom its prompt is of; nothing where no prompt runs."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id, server.client_id)


class Progress(Protocol):
    """Where a run is told of while it works."""

    def tell(self, text: str) -> None:
        """After each step."""
        ...

    def prepare(self, model: Any, steps: int) -> Any:
        """Core's callback of a sampler: bar, preview and interrupt."""
        ...


@dataclass(frozen=True)
class OwnProgress:
    """Of a run that the node makes alone. heading: what begins the line."""

    heading: str = ""

    def tell(self, text: str) -> None:
        show(f"{self.heading}{text}")

    def prepare(self, model: Any, steps: int) -> Any:
        return latent_preview.prepare_callback(model, steps)


ALONE = OwnProgress()


def step_text(done: int, steps: int, laps: Sequence[float], skipped: int) -> str:
    """As "step 12 of 40, 3:10 left, 8 skipped", and after the last step "40 steps in 4:31, 8 skipped".

    Args:
        laps: seconds of each step of this run, which may have gone on from a state. The first one loads and warms up, so that
            what is left is reckoned by the others, skipped ones too.
        skipped: steps in which a step cache skipped.
    """
    spared = f", {skipped} skipped" if skipped else ""
    if done >= steps:
        return f"{counted(len(laps), 'step')} in {_clock(sum(laps))}{spared}"
    usual = laps[1:] or laps
    return f"step {done} of {steps}, {_clock((steps - done) * sum(usual) / len(usual))} left{spared}"


def _clock(seconds: float) -> str:
    """As 0:09, 3:10 and 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
