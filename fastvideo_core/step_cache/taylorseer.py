"""TaylorSeer (Liu et al. 2025, arXiv 2503.06923): a feature of a skipped step is continued from computed ones by its
differences, which stand for derivatives."""

import math
from collections.abc import Sequence

from torch import Tensor


def taylor_terms(value: Tensor, before: Sequence[Tensor], distance: int, order: int) -> tuple[Tensor, ...]:
    """The feature and its derivatives by the step, as far as `before` allows.

    Args:
        value: what this step computed, any shape.
        before: the terms of the last computed step, `distance` steps earlier; empty for a start.
        order: of the highest derivative.
    """
    terms = [value]
    for earlier in before[:order]:
        terms.append((terms[-1] - earlier.to(value.device)) / distance)
    return tuple(terms)


def continued(terms: Sequence[Tensor], distance: int) -> Tensor:
    """The feature `distance` steps after its terms: sum over i of term_i * distance**i / i!"""
    out, *derivatives = terms
    for i, term in enumerate(derivatives, start=1):
        out = out + term * (distance**i / math.factorial(i))
    return out
