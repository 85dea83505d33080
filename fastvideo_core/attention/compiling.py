"""torch.compile for a host that runs for days and sees videos of many sizes."""

from collections.abc import Iterator
from contextlib import contextmanager

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
