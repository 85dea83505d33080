"""What a node is given, looked at before it runs, by its own schema.

ComfyUI looks at the values that stand in a prompt, but lets NaN pass, and entries of a dynamic combo; what comes over a
connection from another node it does not look at: a switch gives None, a caption node a list, a loader nothing.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any

from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from comfy_api.latest import io
from torch import Tensor

from fastvideo_core import ROUNDING, ConditioningError, RequestError, RunReport

from .native.phases import Phases
from .native.workers import NativeWorkers

SOCKETS: Mapping[str, type] = MappingProxyType({
    "MODEL": ModelPatcher, "CLIP": CLIP, "VAE": VAE, "CONDITIONING": list, "LATENT": dict, "IMAGE": Tensor, "SIGMAS": Tensor,
    "FASTVIDEO_RUN_REPORT": RunReport, "FASTVIDEO_PHASES": Phases,
    "FASTVIDEO_WORKERS": NativeWorkers, "CLIP_VISION": ClipVisionModel,
})  # fmt: skip
"""What each kind of connection brings."""
AXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"IMAGE": ("frames", "height", "width", "colours"), "SIGMAS": ("steps + 1",)}
)
MOST_NAMED = 300
"""Characters of a combo's entries that an error names; lists of files are longer."""


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Around a node's `execute`, below `classmethod`.

    Raises:
        RequestError, ConditioningError: a value is not what the node's schema says of that input; the message names the input.
    """
    signature = inspect.signature(execute)
    required = [name for name, each in signature.parameters.items() if each.default is each.empty]

    @wraps(execute)
    def looking(cls: Any, *args: Any, **kwargs: Any) -> io.NodeOutput:
        given = signature.bind_partial(cls, *args, **kwargs)
        extra = next((name for name, each in signature.parameters.items() if each.kind is each.VAR_KEYWORD), "")
        schema = cls.define_schema()
        look = _each if schema.is_input_list else _value
        for asked in schema.inputs:
            values = given.arguments if asked.id in given.arguments else given.arguments.get(extra, {})
            if asked.id in values:
                values[asked.id] = look(asked, asked.id, values[asked.id])
            elif asked.id in required:
                raise _missing(asked)
        return execute(*given.args, **given.kwargs)

    return looking


def _missing(asked: io.Input) -> RequestError:
    """ComfyUI drops a dynamic combo whose entry it does not know."""
    entries = [option.key for option in asked.options] if isinstance(asked, io.DynamicCombo.Input) else []
    why = f", or is none of {', '.join(entries)}" if entries else ""
    return RequestError(f"The {asked.id} input is missing{why}.")


def _each(asked: io.Input, name: str, values: Any) -> list[Any]:
    """Of an input of a node that takes lists."""
    if not isinstance(values, list) or not values:
        raise _refused(name, values, "it must be a list of one or more.")
    return [_value(asked, name, value) for value in values]


def _value(asked: io.Input, name: str, value: Any) -> Any:
    """What the input is to get: the value as it is, or numbers put straight."""
    if isinstance(asked, io.DynamicCombo.Input):
        return _chosen(asked, name, value)
    kind = asked.get_io_type()
    if kind in SOCKETS:
        _check_socket(name, kind, value)
        return value
    if kind in ("INT", "FLOAT"):
        return _number(asked, name, value)
    if kind == "COMBO" and (not isinstance(value, str) or value not in asked.options):
        listed = ", ".join(asked.options)
        named = listed if len(listed) <= MOST_NAMED else f"the {len(asked.options)} in its list"
        raise _refused(name, value, f"use one of {named}.")
    if kind == "BOOLEAN" and not isinstance(value, bool):
        raise _refused(name, value, "it is on or off, true or false.")
    if kind == "STRING" and not isinstance(value, str):
        raise _refused(name, value, "it must be one text.")
    return value


def _check_socket(name: str, kind: str, value: Any) -> None:
    fits: bool = isinstance(value, SOCKETS[kind])
    if not fits and value is None:
        raise RequestError(
            f"The {name} input got None and needs a connection to the node that makes it; where it has one, that node gives "
            "nothing here: a switch, or a loader of a model with one expert."
        )
    if not fits:
        raise RequestError(f"The {name} input got {_shown(value)} and needs a connection: connect the node that makes it.")
    if kind in AXES and value.ndim != len(AXES[kind]):
        raise RequestError(f"The {name} input got a tensor of shape {tuple(value.shape)}: it must be ({', '.join(AXES[kind])}).")
    if kind == "CONDITIONING" and not (value and all(map(_is_encoded, value))):
        raise ConditioningError(f"The {name} input holds no encoded prompt: connect FastVideo Text Encode or CLIPTextEncode.")
    if kind == "LATENT" and not isinstance(value.get("noise_mask"), Tensor | None):
        raise _refused(f"{name}'s noise mask", value["noise_mask"], "it must be a mask.")


def _is_encoded(entry: Any) -> bool:
    """An entry of CONDITIONING: the text, and what is told besides."""
    fits = isinstance(entry, list | tuple) and len(entry) == 2
    return fits and isinstance(entry[0], Tensor) and isinstance(entry[1], dict)


def _chosen(asked: io.DynamicCombo.Input, name: str, value: Any) -> dict[str, Any]:
    """The entry of a dynamic combo and the values of its own inputs."""
    entries = {option.key: option.inputs for option in asked.options}
    entry = value.get(asked.id) if isinstance(value, dict) else value
    if not isinstance(entry, str) or entry not in entries:
        raise _refused(name, entry, f"use one of {', '.join(entries)}.")
    found = dict(value) if isinstance(value, dict) else {asked.id: value}
    for inner in entries[entry]:
        if inner.id not in found:
            raise RequestError(f"The {name} input is {entry}, and its {inner.id} is missing: give {name}.{inner.id}.")
        found[inner.id] = _value(inner, f"{name}.{inner.id}", found[inner.id])
    return found


def _number(asked: Any, name: str, value: Any) -> float | int:
    """Within the input's range; out of it by rounding, it is the end of the range."""
    whole = asked.get_io_type() == "INT"
    words = f"it must be a {'whole ' if whole else ''}number from {asked.min} to {asked.max}."
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(name, value, words)
    number = min(max(value, asked.min), asked.max)
    if abs(number - value) > ROUNDING * max(1.0, abs(number)) or (whole and value != int(value)):
        raise _refused(name, value, words)
    return int(value) if whole else float(number)


def _refused(name: str, value: Any, why: str) -> RequestError:
    return RequestError(f"The {name} input got {_shown(value)}: {why}")


def _shown(value: Any) -> str:
    text = f"{value!r:.80}"
    return f"a {type(value).__name__}" if isinstance(value, Tensor) or "\n" in text else text
