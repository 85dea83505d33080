"""A look at a kernel before a long run depends on it: tiny q, k, v against plain mathematics in float64.

The error is relative: |out - exact| / |exact| in the Euclidean norm over the whole output. What rounding may make of it, with u
the unit roundoff of the dtype (eps / 2):

- The probabilities, the weighted values and the output are each rounded to the dtype: at most u each, 3 u together.
- Scores are sums of D products in float32 and have a standard deviation of SPREAD here; the error of such a sum grows like
  sqrt(D) (Higham, Accuracy and Stability of Numerical Algorithms, 2.6), and an error of a score is a relative error of its
  probability. Twice SPREAD * sqrt(D) * 2^-24 covers it and the sum over the keys. Where torch is told that a GPU may multiply
  float32 in TF32, 2^-11 takes the place of 2^-24.

Wrong kernels are far off: zeros have the error 1, any mix-up of axes as much or more, and the default scale in the place of
the given one 0.6. A low-precision kernel has a budget of its own in the table of backends, from the steps of its numbers: int8
scores are off by 1/254 of the largest value, about 1 % of a probability, and 16-bit values add nothing (SageAttention 1: 0.05);
8-bit floats with 3 bits of mantissa round p and v by up to 6 % each, 4 % together in the norm (2: 0.1); 4-bit floats with 1 bit
by up to 25 %, about 15 % together in the norm (3: 0.25).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .dense import Attend, broadcast_mask
from .requirements import Situation, dtype_name

# What kernels and torch.compile raise; a TypeError where a device lacks a dtype or a package's function an argument.
KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError, ImportError, OSError)
LENGTHS = ((72, 72), (40, 104))  # as in self- and in cross-attention
BATCH, HEADS = 2, 3
SPREAD = 2.0


def faults(attend: Attend, situation: Situation, error: float | None = None) -> tuple[str, ...]:
    """What is wrong with a kernel, in words; nothing where it is right.

    Args:
        error: relative error that it may make; by its dtype when None.
    """
    found = []
    for queries, keys in LENGTHS:
        q, k, v, mask = _inputs(situation, queries, keys)
        scale = SPREAD * situation.head_dim**-0.5  # not the default one, which a kernel could take in its place
        exact, before = exact_attention(q, k, v, mask, scale), [x.clone() for x in (q, k, v)]
        try:
            out = attend(q, k, v, mask, scale)
        except KERNEL_ERRORS as problem:
            found.append(raised(problem))
            continue
        found += [] if all(map(torch.equal, (q, k, v), before)) else ["it changes what it is given"]
        found += differences(out, exact, situation, error or budget(situation))
    return tuple(dict.fromkeys(found))


def exact_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T) v in float64 on the CPU, (B, Lq, H, D). Arguments as in `Attend`."""
    given = broadcast_mask(mask, q)
    q, k, v = (x.cpu().double() for x in (q, k, v))  # there are devices without float64
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if given is not None:
        given = given.cpu()
        scores = scores.masked_fill(~given, -float("inf")) if given.dtype == torch.bool else scores + given.double()
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(dim=-1), v)


def relative_error(out: Tensor, exact: Tensor) -> float:
    """|out - exact| / |exact| in the Euclidean norm."""
    exact = exact.cpu().double()
    return float((out.cpu().double() - exact).norm() / exact.norm())


def budget(situation: Situation) -> float:
    """The relative error that a kernel may make by rounding; derived at the top of this file."""
    tf32 = situation.dtype == torch.float32 and situation.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    scores = 2 * SPREAD * situation.head_dim**0.5 * (2.0**-11 if tf32 else 2.0**-24)
    return float(3 * torch.finfo(situation.dtype).eps / 2 + scores)


def _inputs(situation: Situation, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(situation.device, situation.dtype)

    q = drawn(BATCH, queries, HEADS, situation.head_dim)
    k, v = (drawn(BATCH, keys, HEADS, situation.head_dim) for _ in range(2))
    mask: Tensor | None = None
    if situation.mask == "padding":
        mask = torch.arange(keys, device="cpu") < torch.tensor([[keys], [keys - 19]], device="cpu")
    elif situation.mask == "dense":
        mask = torch.rand(BATCH, HEADS, queries, keys, generator=generator, device="cpu") < 0.7
    elif situation.mask == "bias":
        mask = drawn(1, 1, 1, keys)
    return q, k, v, mask if mask is None else mask.to(situation.device)


def differences(out: Tensor, exact: Tensor, situation: Situation, allowed: float) -> Sequence[str]:
    """What a kernel's output has wrong against the exact one of `exact_attention`, in words."""
    if out.shape != exact.shape:
        return [f"it gives the shape {tuple(out.shape)} where {tuple(exact.shape)} (batch, length, heads, head_dim) is right"]
    if out.dtype != situation.dtype:
        return [f"it gives {dtype_name(out.dtype)} for {dtype_name(situation.dtype)}"]
    bad = int((~out.isfinite()).sum())
    if bad:
        return [f"{bad} of {out.numel()} values that it gives are not finite"]
    error = relative_error(out, exact)
    return [] if error <= allowed else [f"its relative error against float64 is {error:.2g}; at most {allowed:.2g} is rounding"]


def raised(problem: Exception) -> str:
    """What became of a trial."""
    first_line = str(problem).strip().partition("\n")[0][:200] or "no message"
    return f"it raised {type(problem).__name__} in a trial: {first_line}"
