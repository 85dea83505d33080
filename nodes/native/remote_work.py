"""What a node puts inside the network of a MODEL that is in workers: chosen attention, sparse self-attention, compiled blocks.
They are told what was asked, as data; what they did is told here."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP

from fastvideo_core import Contribution
from fastvideo_core.report import of_all_ranks

from .call import lent
from .guard import guard_calls
from .remote_model import RemoteModel
from .remote_network import WORKS
from .taking_part import Participant, taking_part


@dataclass(frozen=True)
class RemoteRun:
    """told: what the workers cannot know of a run. step: to which a call of the network belongs, by its transformer options."""

    told: Mapping[str, Any]
    step: Callable[[Mapping[str, Any]], int] = lambda options: 0


def nothing_to_tell(*_: Any) -> RemoteRun:
    """The workers need not know of the run."""
    return RemoteRun({})


@dataclass(frozen=True)
class RemoteWork:
    """Core's OUTER_SAMPLE wrapper: one call is one generation.

    node, key: as it stands on a MODEL. kind, asked: as of `rank_work.WORKS`. run: of a guider, noise, noise levels, and mask.
    """

    node: str
    key: str
    kind: str
    asked: Mapping[str, Any]
    run: Callable[..., RemoteRun] = nothing_to_tell

    def __call__(self, executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        run = self.run(guider, noise, sigmas, kwargs.get("denoise_mask", args[0] if args else None))
        part = RemotePart(guider.model_patcher.remote, self, run)
        with taking_part(guider, part), part.closed():
            guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, self.key, part.call, guider.model_options, is_model_options=True
            )
            guard_calls(guider.model_options, self.key, self.node, lambda: part.called)
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def with_remote_work(model: Any, work: RemoteWork) -> Any:
    """A clone of a MODEL in workers with this in it.

    Raises:
        RequestError: it is there already, or cannot work there, with every reason.
        LoadError, NumericsError: as of the node where the network is here.
    """
    model.remote.check(work.node, work.kind, work.asked, already=bool(model.get_wrappers(WrappersMP.OUTER_SAMPLE, work.key)))
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, work.key, work)
    return clone


class RemotePart(Participant):
    """One generation of one MODEL. It is opened in the workers when the first call of the network comes."""

    def __init__(self, remote: RemoteModel, work: RemoteWork, run: RemoteRun) -> None:
        self.remote, self.work, self.run, self.name = remote, work, run, uuid.uuid4().hex
        self.called = False
        self._told: Sequence[Contribution] = ()

    def call(self, executor: Any, x: Any, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
             transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        """Core's DIFFUSION_MODEL wrapper: one call of the network."""
        if not self.called:
            self.remote.begin(self.name, self.work.kind, {**self.work.asked, **self.run.told})
            self.called = True
        works = {**transformer_options.get(WORKS, {}), self.name: self.run.step(transformer_options)}
        with lent(transformer_options, **{WORKS: works}):
            return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Afterwards the workers have nothing of it. Of those that are gone nothing is told."""
        try:
            yield
        finally:
            self._told = self.remote.end(self.name)

    def contribution(self, expert: str) -> Contribution:
        """The first worker's, with the mean density of sparse attention."""
        if not self._told:
            return Contribution()
        first = self._told[0]
        sparse = [of_all_ranks(rows) for rows in zip(*(each.sparse for each in self._told), strict=True)]
        return replace(
            first,
            attention=tuple(replace(row, expert=expert) for row in first.attention),
            texts=tuple(replace(row, expert=expert) for row in first.texts),
            sparse=tuple(row for row, _ in sparse),
            notes=(*first.notes, *(note for _, note in sparse if note)),
        )
