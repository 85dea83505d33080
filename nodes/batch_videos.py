"""Videos of a FastVideo Batch: each begun from its texts and image, sampled with the others, and saved as it ends."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from fastvideo_core import FastVideoError, SamplingRequest

from .native.cancelling import cancellable
from .native.facts import wan_facts
from .native.many import ManyRuns, sample_many
from .native.many_progress import ManyProgress
from .native.marks import Marks
from .native.queue import QueuedRun
from .native.saved_video import SavedVideo, save_video
from .native.start import started
from .text_encode import encode

FAILURES = FastVideoError, torch.OutOfMemoryError
"""Of one video alone."""
SHOWN = 60
"""Characters of a prompt by which a video is told from others."""


@dataclass(eq=False, kw_only=True)
class BatchVideo:
    """number: from 1; image: IMAGE of its first frame (1, H, W, C). run: since it was begun; saved: at last."""

    number: int
    prompt: str
    negative: str
    seed: int
    image: Any = None
    run: QueuedRun | None = None
    saved: SavedVideo | None = None
    error: Exception | None = None

    @property
    def sampled(self) -> bool:
        return self.run is not None and self.run.video is not None

    def line(self) -> str:
        if self.error is not None:
            shown = self.prompt if len(self.prompt) <= SHOWN else f"{self.prompt[:SHOWN]}..."
            return f"{self.number}: failed: {self.error} (seed {self.seed}, prompt {shown!r})"
        assert self.run is not None and self.saved is not None
        return f"{self.number}: {self.saved.name}: {self.run.report.headline}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What all videos have in common. experts: MODELs by the names of the request's phases; size: width, height and frames;
    prefix, fps, metadata: of the files."""

    experts: Mapping[str, Any]
    clip: Any
    vae: Any
    clip_vision: Any
    request: SamplingRequest
    size: tuple[int, int, int]
    prefix: str
    fps: float
    metadata: Mapping[str, Any]

    def make(self, videos: Sequence[BatchVideo], marks: Marks) -> None:
        """Leaves in each its file and its run, or its error. What was saved when it is cancelled is there, and of the others what
        was made; see `sample_many`."""
        for video in videos:
            _alone(video, self._begin)
        begun = {video.run: video for video in videos if video.run is not None}
        if not begun:
            return
        many = ManyRuns(list(begun))
        progress = ManyProgress(len(begun), self.request.plan().steps)
        for run, video in begun.items():
            run.progress = progress.of(video.number, partial(many.check, run))
        with cancellable({video.number: partial(many.cancel, number) for number, video in enumerate(begun.values())}) as ended:
            for run in sample_many(self.experts, many, marks):
                video = begun[run]
                video.error = run.error
                _alone(video, self._finish)
                progress.ended(video.number)
                ended(video.number)
                logging.info("FastVideo Batch: %s", video.line())

    def _begin(self, video: BatchVideo) -> None:
        texts = encode(self.clip, video.prompt, "positive"), encode(self.clip, video.negative, "negative")
        facts = wan_facts(next(iter(self.experts.values())))
        given = started(facts, texts, self.vae, self.size, video.image, self.clip_vision)
        video.run = QueuedRun(*given, replace(self.request, seed=video.seed))

    def _finish(self, video: BatchVideo) -> None:
        assert video.run is not None and video.run.video is not None
        frames = self.vae.decode(video.run.video["samples"]).flatten(0, -4)
        told = {"fastvideo_batch": {"number": video.number, "prompt": video.prompt, "seed": video.seed}}
        video.saved = save_video(frames, self.fps, self.prefix, {**self.metadata, **told})


def _alone(video: BatchVideo, act: Callable[[BatchVideo], None]) -> None:
    """What it meets is no other's."""
    if video.error is not None:
        return
    try:
        act(video)
    except FAILURES as error:
        video.error = error.with_traceback(None)  # whose frames hold tensors
