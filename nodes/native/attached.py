"""What is attached to a MODEL, by name. Two runs with the same things attached do the same work in each computed step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STEP_CACHE = "fastvideo_step_cache"
"""The key of this pack's step caches. They are told for themselves: what they skip is seen in the steps."""


SPARSE = "fastvideo_sparse_attention"
"""The key of sparse self-attention."""


def attached(model: Any) -> tuple[str, ...]:
    """Options, wrappers, patches of objects and of weights, and the weights' type, of this pack and of others, sorted."""
    found = {"options": model.model_options, "wrappers": model.wrappers, "callbacks": model.callbacks}
    names = [name for kind, tree in found.items() for name in _names(kind, tree)]
    names += [f"object {name}" for name in model.object_patches]
    return tuple(sorted([*names, f"weights {model.model_dtype()}", f"{len(model.patches)} patched weights"]))


def _names(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != STEP_CACHE:
                yield from _names(f"{path} {key}", inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _names(path, inner)
    elif callable(value):
        yield f"{path} {getattr(value, '__qualname__', type(value).__qualname__)}"
    elif isinstance(value, str | int | float):
        yield f"{path} {value}"
