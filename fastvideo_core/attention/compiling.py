"""torch.compile for a host that runs for days and sees videos of many sizes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SHAPES = 1024


@contextmanager
def many_shapes() -> Iterator[None]:
    """torch compiles 8 shapes of one function and then refuses; inside this it compiles as many as come."""
    if torch.compiler.is_compiling():  # a caller compiles this along with its own code, under its own limit
        yield
        return
    from torch._dynamo import config

    with config.patch(recompile_limit=_SHAPES, accumulated_recompile_limit=_SHAPES):
        yield


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """It and all that it calls run as they are among compiled code. Where nothing has been compiled in this process, torch's
    compiler is not even imported, which would take a second."""
    if "torch._dynamo" not in sys.modules:
        return function
    left: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return left
