"""What stays out of compiled graphs."""

import sys
from collections.abc import Callable
from typing import Any

import torch


def uncompiled(function: Callable[..., Any], recursive: bool = False) -> Callable[..., Any]:
    """Decisions stay out of compiled graphs; what the function calls may be compiled, unless recursive. Where nothing has been
    compiled in this process, torch's compiler is not even imported, which would take a second."""
    return torch.compiler.disable(function, recursive=recursive) if "torch._dynamo" in sys.modules else function
