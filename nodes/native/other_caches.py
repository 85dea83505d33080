"""Whether a MODEL already has a step cache of core or of another pack: with two, one skips what the other one measures."""

from collections.abc import Iterator
from typing import Any

from fastvideo_core import RequestError

MARKS = ("cache", "rel_l1_thresh")
"""What the names of step caches' wrappers, options and functions have in them (core's EasyCache and LazyCache, TeaCache, MagCache
and first-block cache of other packs)."""
NO_STEP_CACHES = ("animate2_cache",)
"""Of core's Wan Animate 2: what its pose branch computed, which is the same in every step."""


def check_no_other_cache(cache: Any, model_options: dict[str, Any], network: Any, own_key: str) -> None:
    """Raises RequestError for another cache among the options of a run, or around the network's forward.

    Args:
        cache: ours. own_key: the key of its wrapper.
    """
    options = model_options.get("transformer_options", {})
    ours = [wrapper.cache for wrapper in options.get("wrappers", {}).get("outer_sample", {}).get(own_key, [])]
    others = [other.name for other in ours if other is not cache]
    others += _others(model_options, options, network, own_key)
    if others:
        raise RequestError(
            f"{cache.name} and {others[0]} are on one MODEL: the one skips what the other one measures. Remove or bypass one "
            "of the two nodes."
        )


def _others(model_options: dict[str, Any], options: dict[str, Any], network: Any, own_key: str) -> Iterator[str]:
    for name, value in options.items():
        if _is_cache(name):
            yield str(getattr(value, "name", f"the cache of another pack ({name})"))
    for keys in options.get("wrappers", {}).values():
        yield from (f"the cache of another pack ({key})" for key in keys if key != own_key and _is_cache(str(key)))
    patched = {name: value for name, value in vars(network).items() if name.startswith("forward")}
    for value in (model_options.get("model_function_wrapper"), *patched.values()):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        if value is not None and _is_cache(name):
            yield f"the cache of another pack ({name})"


def _is_cache(name: str) -> bool:
    return name not in NO_STEP_CACHES and any(mark in name.lower() for mark in MARKS)
