"""JSON from files of whoever wrote them: an object with values of the kinds that are read, or an error that names the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import FastVideoError, LoadError

T = TypeVar("T")

_FIX = "Download the file again or mend it."
_LARGEST = {"layers": 1000, "head_dim": 1024, "seq_len": 2**16}
"""By the end of a size's name; any other may be a million. What is made of more would not end, or fill the memory."""


def read_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        LoadError: it is something else; `what` says where it was found.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{what} is not JSON: {error}. {_FIX}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{what} is no JSON object. {_FIX}")
    return value


def read_json_file(path: Path) -> dict[str, Any]:
    """The same of a whole file.

    Raises:
        LoadError: it cannot be read, or is no JSON object.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read as text: {error}. {_FIX}") from error
    return read_json(text, str(path))


def check_sizes(config: Mapping[str, Any], names: str, what: str) -> None:
    """Raises LoadError where a size that is there is no whole number from 1 on. names: of the sizes, with blanks between them."""
    for name in names.split():
        value = config.get(name, 1)
        most = next((most for end, most in _LARGEST.items() if name.endswith(end)), 10**6)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise LoadError(f"{what}: {name} is {value!r:.80}, and must be a whole number from 1 to {most}. {_FIX}")


def made_of(what: str, make: Callable[[], T]) -> T:
    """What is made of values from a file: libraries raise whatever they come upon.

    Raises:
        LoadError: nothing can be made of them; `what` begins the message, as in "FILE is no ratio table".
    """
    try:
        return make()
    except Exception as error:
        why = str(error) if isinstance(error, FastVideoError) else f"{type(error).__name__}: {error!s:.300}"
        raise LoadError(f"{what}: {why}") from error
