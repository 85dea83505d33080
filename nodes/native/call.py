"""One call of core's network, seen from its attention: which part of a block asks.

A call's transformer options are the host's: patches leave things there for one another, as core's for InfiniteTalk do from
self-attention to the audio's. So every block gets the host's own, never a copy; and what changes within a call stands in an
object of ours that lies in them, for compiled code writes a whole dict anew where it changes one key of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastvideo_core import Branch
from fastvideo_core.attention import FoldedText

BRANCHES: tuple[Branch, Branch] = ("positive", "negative")  # ComfyUI numbers them 0 and 1
CALL = "fastvideo_call"
"""Among a call's transformer options: its `NetworkCall`."""


@dataclass(eq=False, kw_only=True)
class Asked:
    """What was computed in a call of the network so far: any attention, and what is known to be self-attention."""

    attention: bool = False
    self_attention: bool = False


@dataclass(eq=False, kw_only=True)
class NetworkCall(Asked):
    """own: self-attention asks; fold: of the text that cross-attention reads just now, None where it is read as it is."""

    own: bool = False
    fold: FoldedText | None = None


@contextmanager
def lent(options: dict[str, Any], **ours: Any) -> Iterator[None]:
    """Keys of ours in the host's options for the duration of a call."""
    before = {key: options[key] for key in ours if key in options}
    options.update(ours)
    try:
        yield
    finally:
        for key in ours:
            options.pop(key, None)
        options.update(before)
