"""cache-dit itself as a step cache (Apache-2.0, an optional package): DBCache and TaylorSeer by their authors' code."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from ..errors import RequestError
from ..guidance import Branch
from ..schedule import Phase, Schedule
from ..wan.blocks import BlockStack, installed
from .cache_dit_shell import BLOCK_LISTS, BlockList, Budget, Shell, block_lists, load_cache_dit
from .dbcache import DBCache
from .dbcache_settings import DBCacheSettings
from .decisions import Decision


@dataclass
class _Call:
    """A call on its way through one or two lists of blocks. outcomes: whether each list was skipped, and why or why not."""

    step: int
    branches: tuple[Branch, ...]
    bypass: bool
    outcomes: list[tuple[bool, str]] = field(default_factory=list)

    def decision(self) -> Decision:
        """Skipped is a call whose lists all were."""
        if self.bypass:
            return Decision(self.step, self.branches, "bypass", "a second call in one step")
        cached, reason = min(self.outcomes, key=lambda outcome: outcome[0])
        return Decision(self.step, self.branches, "skip" if cached else "compute", reason)


class CacheDiTSession:
    """cache-dit during one phase. It counts as `BlockwiseSession` does."""

    def __init__(self, schedule: Schedule, phase: Phase, settings: DBCacheSettings) -> None:
        self.decisions: list[Decision] = []
        self.ran = self.asked = self.peak_bytes = 0
        self._phase, self._settings, self._threshold = phase, settings, settings.threshold_in(schedule.whole_steps)
        self._shells: dict[tuple[tuple[Branch, ...], str], Shell] = {}
        self._seen: dict[Branch, int] = {}
        self._seen_before: dict[Branch, int] = {}
        self._next: _Call | None = None
        self._now: _Call | None = None

    @property
    def tokens_held(self) -> int:
        """What the first blocks added and what the middle ones did, or with Taylor the terms of the last two computed steps; in
        a call the tokens before the blocks and what the first ones add."""
        order = self._settings.taylor_order
        return 2 + (1 + 2 * (order + 1) if order else 2)

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        self._next = _Call(step, branches, any(self._seen.get(branch) == step for branch in branches))
        self._seen_before = dict(self._seen)
        self._seen.update(dict.fromkeys(branches, step))

    def withdraw(self) -> None:
        call = self._now
        if call is not None:
            for key in [key for key in self._shells if key[0] == call.branches]:
                self._shells.pop(key).close()  # it is in the middle of a call
        self._seen, self._next, self._now = self._seen_before, None, None

    def wrap(self, blocks: Iterable[nn.Module]) -> BlockStack:
        (kind,) = BLOCK_LISTS["WanTransformer3DModel"]
        return partial(self._run, kind, tuple(blocks), (kind,))

    @contextmanager
    def installed(self, transformer: nn.Module) -> Iterator[None]:
        """Works on every list of blocks of a transformer in `BLOCK_LISTS`; afterwards they are back.

        Raises:
            RequestError: it is none of them.
        """
        kinds = block_lists(transformer)
        with ExitStack() as stack:
            for kind in kinds:
                blocks = tuple(getattr(transformer, kind.name))
                stack.enter_context(installed(transformer, partial(self._run, kind, blocks, kinds), kind.name))
            yield

    def _run(self, kind: BlockList, blocks: Sequence[nn.Module], kinds: Sequence[BlockList], *args: Any) -> Any:
        """One call of one list, out of the transformer's `kinds`."""
        if kind is kinds[0]:
            self._now, self._next = self._next, None
        call = self._now
        if call is None:
            return _plain(kind, blocks, args)
        if call.bypass:
            out = _plain(kind, blocks, args)
            self.ran += len(blocks)
        else:
            out = self._cached(call, kind, blocks, args)
        self.asked += len(blocks)
        if kind is kinds[-1]:
            self._now = None
            self.decisions.append(call.decision())
        return out

    def _cached(self, call: _Call, kind: BlockList, blocks: Sequence[nn.Module], args: Sequence[Any]) -> Any:
        key = call.branches, kind.name
        if key not in self._shells:
            self._drop(call.branches, kind)
            self._shells[key] = Shell(blocks, kind.pattern, self._settings, self._budget(call))
        shell = self._shells[key]
        before = shell.ran
        out = shell(*args)
        self.ran += shell.ran - before
        call.outcomes.append(shell.outcome())
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return out

    def _budget(self, call: _Call) -> Budget:
        """What is left where calls of this kind begin: behind a guidance gate, in the middle of a phase."""
        skippable = self._settings.skippable(self._phase)
        if skippable is not None:
            skipped = [d for d in self.decisions if d.action == "skip" and call.branches[0] in d.branches]
            skippable = max(0, skippable - len(skipped))
        warm = self._phase.start + self._settings.warmup(self._phase)
        first = call.step == self._phase.start
        start = "first step of the phase" if first else "nothing of this size was computed before"
        return Budget(start, self._threshold, max(0, warm - call.step), skippable)

    def _drop(self, branches: tuple[Branch, ...], kind: BlockList) -> None:
        """Frees what is held for calls over one of the branches and others."""
        for key in [key for key in self._shells if key[1] == kind.name and not set(branches).isdisjoint(key[0])]:
            self._shells.pop(key).close()

    @property
    def held_bytes(self) -> int:
        """Memory of what cache-dit holds now."""
        return sum(shell.held_bytes for shell in self._shells.values())

    def close(self) -> None:
        """Frees what is held. Decisions and counts stay."""
        for shell in self._shells.values():
            shell.close()
        self._shells.clear()
        self._next = self._now = None


def _plain(kind: BlockList, blocks: Sequence[nn.Module], args: Sequence[Any]) -> Any:
    """The blocks one after the other, as the transformer runs them."""
    tokens, context, *rest = args
    for block in blocks:
        if kind.pattern == "Pattern_2":
            tokens = block(tokens, context, *rest)
        else:
            tokens, context = block(tokens, context, *rest)
    return tokens if kind.pattern == "Pattern_2" else (tokens, context)


class CacheDiT(DBCache):
    """cache-dit during one generation, in the place of `DBCache`. Its residuals stay on the device.

    Raises:
        RequestError: cache-dit is not installed, or the residuals shall wait on the CPU.
    """

    name = "cache-dit"

    def __init__(self, schedule: Schedule, settings: DBCacheSettings) -> None:
        super().__init__(schedule, settings)
        load_cache_dit()
        if settings.residuals_on_cpu:
            raise RequestError(
                "residuals_on_cpu is on, and cache-dit keeps its residuals on the device. Turn it off, or use DBCache."
            )

    def open(self, phase: Phase) -> CacheDiTSession:
        return CacheDiTSession(self.schedule, phase, self.settings)
