"""cache-dit on blocks that do not belong to it: they are lent to a shell, cache-dit works on the shell, and the shell is thrown
away. Neither the transformer nor its blocks get an attribute, a hook or another forward."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import RequestError
from .dbcache_settings import DBCacheSettings


class BlockList(NamedTuple):
    """name: a transformer's attribute; pattern: of cache-dit's `ForwardPattern`, what its blocks take and give."""

    name: str
    pattern: str


BLOCK_LISTS = {
    "WanTransformer3DModel": (BlockList("blocks", "Pattern_2"),),
    "HunyuanVideoTransformer3DModel": (
        BlockList("transformer_blocks", "Pattern_0"),
        BlockList("single_transformer_blocks", "Pattern_0"),
    ),
}
"""By class, in the order in which its forward runs them. Pattern_2: (tokens, context) -> tokens; Pattern_0: (tokens, context) ->
(tokens, context)."""


def block_lists(transformer: nn.Module) -> tuple[BlockList, ...]:
    """Raises RequestError for a class that is not in the table."""
    name = type(transformer).__name__
    if name not in BLOCK_LISTS:
        raise RequestError(
            f"cache-dit was asked for on a {name}, whose blocks are not known here. Known: {', '.join(BLOCK_LISTS)}."
        )
    return BLOCK_LISTS[name]


def load_cache_dit() -> ModuleType:
    """Raises RequestError where the package is not installed."""
    try:
        return import_module("cache_dit")
    except ImportError as error:
        raise RequestError(
            f"cache-dit was asked for and the package {error.name} is not installed: pip install cache-dit. DBCache makes the "
            "same decisions without it."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what cache-dit logs about each step of its setup from the screen; errors pass."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.lower().startswith("cache_dit")]
    levels = {handler: handler.level for logger in loggers for handler in logger.handlers}
    for handler in levels:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


class Budget(NamedTuple):
    """What a phase still allows. start: why the first call computes; threshold: of the difference; warmup: calls that always
    compute first; skippable: calls that may be skipped, any number when None."""

    start: str
    threshold: float
    warmup: int
    skippable: int | None


class Shell:
    """A list of blocks under cache-dit, for calls that follow each other step by step over the same branches.

    Each kind of call has a shell of its own: cache-dit would tell the branches of calls apart by counting to two.
    """

    def __init__(self, blocks: Sequence[nn.Module], pattern: str, settings: DBCacheSettings, budget: Budget) -> None:
        self.budget, self.calls = budget, 0
        self._lent = [_Lent(block) for block in blocks]
        self._host = _Host(self._lent)
        package = self._package = load_cache_dit()
        first, last = settings.outer_blocks(len(blocks))
        config = package.DBCacheConfig(
            Fn_compute_blocks=first,
            Bn_compute_blocks=last,
            residual_diff_threshold=budget.threshold,
            max_warmup_steps=budget.warmup,
            max_cached_steps=-1 if budget.skippable is None else budget.skippable,
            max_continuous_cached_steps=-1 if settings.max_skips is None else settings.max_skips,
            enable_separate_cfg=False,
        )
        taylor = package.TaylorSeerCalibratorConfig(taylorseer_order=settings.taylor_order) if settings.taylor_order else None
        with quiet():
            adapter = package.BlockAdapter(
                pipe=_pipeline(),
                transformer=self._host,
                blocks=self._host.blocks,
                blocks_name="blocks",
                forward_pattern=getattr(package.ForwardPattern, pattern),
                check_forward_pattern=False,
                has_separate_cfg=False,
            )
            package.enable_cache(adapter, cache_config=config, calibrator_config=taylor)

    def __call__(self, *args: Any) -> Any:
        """One call: tokens, context and what else the blocks take. Returns what the last block does."""
        self.calls += 1
        return self._host(*args)

    @property
    def ran(self) -> int:
        """How many blocks ran so far."""
        return sum(block.ran for block in self._lent)

    def outcome(self) -> tuple[bool, str]:
        """Whether the last call was skipped, and why or why not."""
        stats = self._package.summary(self._host, logging=False)[0]
        step, threshold = self.calls - 1, self.budget.threshold
        difference = stats.residual_diffs.get(str(step))
        if step in stats.cached_steps:
            return True, f"difference {difference:.4g} is below {threshold:g}"
        if step == 0:
            return False, self.budget.start
        if step < self.budget.warmup:
            return False, "warmup"
        if difference is None:
            return False, "as many steps skipped as allowed"
        return False, f"difference {difference:.4g} reaches {threshold:g}"

    @property
    def held_bytes(self) -> int:
        """Memory of what cache-dit holds for this shell now."""
        context = self._host._context_manager.get_context(self._host._context_names[0])
        states = [
            state
            for calibrator in (context.calibrator, context.encoder_calibrator)
            if calibrator is not None
            for state in calibrator.states.values()
        ]
        held = [*context.buffers.values(), *(term for state in states for terms in state.state.values() for term in terms)]
        return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in held if isinstance(tensor, Tensor)}.values())

    def close(self) -> None:
        """Frees what cache-dit holds. The host refers to itself in what cache-dit leaves there, so that is dropped too."""
        with quiet():
            self._package.disable_cache(self._host)
        vars(self._host).pop("forward", None)


class _Host(nn.Module):
    """What cache-dit takes for the transformer. While it is called, its blocks are one: cache-dit's, around them."""

    blocks: nn.ModuleList
    _context_manager: Any
    _context_names: Any

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, *args: Any) -> Any:
        (block,) = self.blocks
        return block(*args)


class _Lent(nn.Module):
    """A block as the host sees it: it runs and is counted, and stays out of the host's module tree."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = (block,)
        self.ran = 0

    def forward(self, *args: Any) -> Any:
        self.ran += 1
        return self._block[0](*args)


def _pipeline() -> Any:
    """A stand-in of a class of its own, for cache-dit marks the class."""
    stand_in = import_module("cache_dit.caching").FakeDiffusionPipeline
    return type("Pipeline", (stand_in,), {})()
