"""One generation of one MODEL through a step cache: each call of the network announced, and something around each block."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from fastvideo_core import Branch, CacheReport, Contribution, Phase, RequestError, Schedule
from fastvideo_core.step_cache import BlockwiseSession, Sessions

from .attached import STEP_CACHE
from .call import BRANCHES
from .guard import guard_calls
from .taking_part import Participant
from .uncompiled import uncompiled

WINDOWS = "they were context windows, which are not steps"
PARTS = "they held a conditioning of several parts"

Place = tuple[str, int]
"""Core's name of a block among the hooks."""


class OpenCache(Sessions, Protocol):
    """A cache, or what measures, during one generation: `StepCache` is one."""

    def report(self) -> CacheReport:
        """What it did so far."""
        ...


class Opened(NamedTuple):
    """A cache for one generation, and where in it the MODEL works.

    notes: for the report. needs: what to say where calls hold parts of a step, which this cache cannot do with.
    """

    cache: OpenCache
    schedule: Schedule
    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = ()
    needs: str = ""


class CacheRun(Participant):
    """One generation of one MODEL through a cache."""

    def __init__(self, opened: Opened, blocks: int, level: Callable[[torch.Tensor], float]) -> None:
        """level: tells the noise level of a call by core's timesteps (B,)."""
        self.opened, self.blocks, self.level = opened, blocks, level
        self.passed: Counter[str] = Counter()  # why calls were none of ours
        self._stack = ExitStack()
        self._phase = opened.phases[0]
        self._session: BlockwiseSession | None = None  # where the cache stands aside, and after the phase's steps
        self._owners: dict[Branch, Any] = {}  # whose prompt each branch is
        self._steps: dict[Branch, int] = {}  # the last one of each branch
        self._asked: int | None = None  # blocks so far in the call that was announced
        self._hooks: dict[Place, Callable[..., Any]] = {}  # this run's, by the place of their block
        self._replaced: dict[Branch, tuple[Place, ...]] = {}  # where hooks of another stood in a branch's last call

    def __enter__(self) -> "CacheRun":
        self._open(self._phase)
        return self

    def __exit__(self, *_: object) -> None:
        self.phase_over()

    def _open(self, phase: Phase) -> None:
        session = self._stack.enter_context(self.opened.cache.session(phase))
        assert session is None or isinstance(session, BlockwiseSession)
        self._phase, self._session = phase, session

    def phase_over(self) -> None:
        self._session = None
        self._stack.close()

    @property
    def skipped_steps(self) -> int:
        return self.opened.cache.report().skipped_steps

    def contribution(self, expert: str) -> Contribution:
        report = self.opened.cache.report()
        passed = (f"{report.name} did nothing for {count} calls: {reason}" for reason, count in self.passed.items())
        return Contribution(
            caches=(replace(report, bypassed=report.bypassed + self.passed.total()),), notes=(*self.opened.notes, *passed)
        )

    def installed(self, options: dict[str, Any], token_bytes: int) -> dict[str, Any]:
        """The options of a run, with this cache in them. token_bytes: of one branch's tokens."""
        if self._session is None:
            return options
        options = comfy.model_patcher.create_model_options_clone(options)
        self._reach_blocks(options, self._session.tokens_held * token_bytes)
        guard_calls(options, STEP_CACHE, self.opened.cache.report().name, lambda: bool(self._steps or self.passed))
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.DIFFUSION_MODEL, STEP_CACHE, uncompiled(self._call), options, is_model_options=True
        )
        return options

    def _reach_blocks(self, options: dict[str, Any], held_bytes: int) -> None:
        """Hooks of the blocks, and memory for what is kept of a branch, in the options of a run."""
        replaces = options.setdefault("transformer_options", {}).setdefault("patches_replace", {}).setdefault("dit", {})
        for index in range(self.blocks):
            place = ("double_block", index)
            replaces[place] = self._hooks[place] = self._around(index, replaces.get(place))
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.PREPARE_SAMPLING, STEP_CACHE, _reserving(held_bytes), options, is_model_options=True
        )

    def _call(self, executor: Any, x: Any, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
              transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        """Core's DIFFUSION_MODEL wrapper: one call of the network."""
        arguments = (x, timestep, context, clip_fea, time_dim_concat, transformer_options)
        reason = uncompiled(self._announce, recursive=True)(transformer_options)
        if reason:
            if self.opened.needs and reason in (WINDOWS, PARTS):
                raise RequestError(f"{self.opened.needs} There were calls that did not count: {reason}.")
            self.passed[reason] += 1
            return executor(*arguments, **kwargs)
        with self._at_work(transformer_options):
            return executor(*arguments, **kwargs)

    @contextmanager
    def _at_work(self, options: dict[str, Any]) -> Iterator[None]:
        """For a call that was announced."""
        self._asked = 0
        try:
            with self._around_others(options):
                yield
            self._check_asked(self.blocks)
        finally:
            self._asked = None

    @contextmanager
    def _around_others(self, options: dict[str, Any]) -> Iterator[None]:
        """Hooks that a patch put in the place of ours for this call, such as those of a guidance that skips layers, run inside of
        ours: what they do is part of what is measured."""
        given = options["patches_replace"]
        others = self._others(options)
        if others:
            around = {place: self._around(place[1], given["dit"][place]) for place in others}
            options["patches_replace"] = {**given, "dit": {**given["dit"], **around}}
        try:
            yield
        finally:
            options["patches_replace"] = given

    def _others(self, options: dict[str, Any]) -> tuple[Place, ...]:
        """The places of blocks where another hook stands than this run's."""
        present = options.get("patches_replace", {}).get("dit", {})
        return tuple(place for place, hook in self._hooks.items() if present.get(place, hook) is not hook)

    def _announce(self, options: dict[str, Any]) -> str:
        """Tells the session of a call, or why the call is none of its."""
        if "context_window" in options:
            return WINDOWS
        indices, uuids = options["cond_or_uncond"], options["uuids"]
        if len(set(indices)) < len(indices) or not set(indices) <= {0, 1}:
            return PARTS
        step = self._step(self.level(options["sigmas"]))
        if step is None:
            return "their noise level lay between two steps"
        phase = next((phase for phase in self.opened.phases if step in phase.steps), None)
        if phase is None:
            return "they were in a step of the other expert"
        if phase.start > self._phase.start:
            self.phase_over()
            self._open(phase)
        session = self._session
        if session is None or phase.start < self._phase.start:
            return "they came after the phase's last step"
        branches = tuple(BRANCHES[index] for index in indices)
        if any(self._owners.get(branch, uuid) != uuid for branch, uuid in zip(branches, uuids, strict=True)):
            return "they held another part of a conditioning"
        if any(self._steps.get(branch) == step for branch in branches):
            return "they were a second call in one step"
        others = self._others(options)
        session.forget(branch for branch in branches if self._replaced.get(branch, others) != others)
        self._replaced.update(dict.fromkeys(branches, others))
        self._owners.update(zip(branches, uuids, strict=True))
        self._steps.update(dict.fromkeys(branches, step))
        session.begin(step, branches)
        return ""

    def _step(self, sigma: float) -> int | None:
        """The step at this noise level; samplers of core may give it a little rounded."""
        levels = self.opened.schedule.sigmas
        step = min(range(len(levels) - 1), key=lambda i: abs(levels[i] - sigma))
        gap = min(abs(levels[step] - levels[other]) for other in (step - 1, step + 1) if other >= 0)
        return step if abs(levels[step] - sigma) < gap / 10 else None

    def _around(self, index: int, inner: Callable[..., Any] | None) -> Callable[..., Any]:
        """The hook of a block. inner: the hook that another pack has there."""

        def hook(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            def block(tokens: torch.Tensor) -> torch.Tensor:
                given = {**args, "img": tokens}
                out: torch.Tensor = (extra["original_block"](given) if inner is None else inner(given, extra))["img"]
                return out

            if self._asked is None or self._session is None:
                return {"img": block(args["img"])}
            self._check_asked(index)
            self._asked += 1
            return {"img": self._session.block(index, self.blocks, args["img"], block)}

        return uncompiled(hook)

    def _check_asked(self, before: int) -> None:
        """before: how many blocks there are so far."""
        if self._asked != before:
            raise RequestError(
                f"{self.opened.cache.report().name} saw {self._asked} of the network's {self.blocks} blocks in a call: a patch "
                "of another pack replaced the network's forward or its block hooks during the run. Remove it or the cache."
            )


def _reserving(held_bytes: int) -> Callable[..., Any]:
    """Core's PREPARE_SAMPLING wrapper, which makes it keep free what the cache will hold of two branches: its estimate goes by
    the number of frames, so it is told of more."""

    def wrapper(executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        batch, channels, frames, *size = noise_shape
        estimate = model.model.memory_required([2 * batch, channels, frames, *size])
        more = -(-frames * 2 * held_bytes // max(1, int(estimate)))
        return executor(model, [batch, channels, frames + more, *size], conds, *args, **kwargs)

    return wrapper
