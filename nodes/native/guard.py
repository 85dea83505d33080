"""Whether a network is called, and calls its parts, as our nodes take it: what they put around a call would else not act, without
a word. Core's causal Wan calls its blocks past wrappers and hooks, and Wan Animate 2 its attention piece by piece."""

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP

from fastvideo_core import RequestError

from .call import Asked


def guard_calls(options: dict[str, Any], key: str, node: str, came: Callable[[], bool]) -> None:
    """Puts core's APPLY_MODEL wrapper into the options of a run. came: whether a call of the network has come to the node.

    The wrapper raises RequestError where none has: no cache can skip the first one.
    """

    def applied(executor: Any, *args: Any, **kwargs: Any) -> Any:
        out = executor(*args, **kwargs)
        if not came():
            raise RequestError(
                f"{node} is on a {network_name(executor.class_obj.diffusion_model)}, whose blocks this sampler calls past "
                f"ComfyUI's wrappers and hooks: {node} would do nothing. Remove it from this MODEL, or use another sampler."
            )
        return out

    comfy.patcher_extension.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, applied, options, is_model_options=True)


def check_asked(node: str, network: Any, call: Asked) -> None:
    """Raises RequestError where a call of the network computed attention, and none of it was seen to be self-attention."""
    if call.attention and not call.self_attention:
        raise RequestError(
            f"{node} is on a {network_name(network)}, which calls its self-attention in another way than other Wan networks do, "
            f"so that it cannot be told from cross-attention. Remove {node} from this MODEL."
        )


def network_name(network: Any) -> str:
    """The class of a network, also of one that is compiled as a whole."""
    return type(getattr(network, "_orig_mod", network)).__name__
