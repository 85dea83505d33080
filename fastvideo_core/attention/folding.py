"""The zero rows of a text, folded: they are identical after the text embedding and carry no rope, so they are one key and one
value, and M of them weigh in softmax as one whose score is log M higher."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..report import TextReport

KeysValues = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
"""Keys and values, (B, L, H, D), of a `WanAttention` for rows (B, L, heads * D)."""

STANDING = 2
"""Rows that stand for the zero ones. The bias is rounded to the network's dtype, in bfloat16 by up to 0.016, which one row
would weigh 1.6 % wrong; a second one holds what the first one's rounding leaves."""
ALIGNED = 16
"""CUDA's kernels read a bias whose rows are a multiple of this long as it is, and copy any other."""


@dataclass(frozen=True)
class FoldedText:
    """The first `rows` of the rows of a text in cross-attention, which are 512 unless a host gives others. The last two of them
    are zero rows and stand for all that are left out; so the same fold serves every text that is not longer. bias: (1, 1, 1,
    rows), added to the scaled scores. kept: where keys and values are kept over the steps, if they are."""

    rows: int
    bias: Tensor
    kept: "KeptKeys | None" = None

    @property
    def real(self) -> int:
        """Rows before those that stand for the zero ones: no text that is folded so may be longer."""
        return self.rows - STANDING

    def to(self, context: Tensor) -> "FoldedText":
        """On the device of a text."""
        return replace(self, bias=self.bias.to(context.device))

    @classmethod
    def of(cls, texts: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> "FoldedText | None":
        """The fold that all of `texts`, (B, L, D) of one L, share; None where there are not enough zero rows. It waits for the
        device of the texts."""
        length = texts[0].shape[1]
        longest = max(real_rows(text) for text in texts)
        rows = -(-(longest + STANDING) // ALIGNED) * ALIGNED
        if rows >= length:
            return None
        bias = torch.zeros(1, 1, 1, rows, dtype=dtype, device="cpu")
        bias[..., -STANDING:] = weights(length - rows + STANDING, dtype)
        return cls(rows, bias.to(device))


def text_report(expert: str, rows: int, text: FoldedText | None, why: str = "") -> TextReport:
    """Of texts with so many rows. why: they were not folded; as a rule, because they are too long."""
    if text is None:
        return TextReport(expert=expert, rows=rows, read=rows, why=why or "too few of them are zero", keys_kept=False)
    return TextReport(expert=expert, rows=rows, read=text.rows, why="", keys_kept=text.kept is not None)


def real_rows(text: Tensor) -> int:
    """Rows of (B, L, D) up to the last that is not zero in every sample."""
    real = (text != 0).any(dim=2).any(dim=0)
    return int(real.nonzero().max()) + 1 if bool(real.any()) else 0


def weights(count: int, dtype: torch.dtype) -> Tensor:
    """Two biases in `dtype` that together weigh as `count` equal keys: exp(first) + exp(second) = count; first <= log(count)."""
    first = torch.tensor(math.log(count), device="cpu").to(dtype)
    if math.exp(first.item()) > count:
        first = torch.nextafter(first, torch.zeros_like(first))
    rest = count - math.exp(first.item())
    return torch.stack([first, torch.tensor(math.log(rest) if rest > 0 else -math.inf, device="cpu").to(dtype)])


@dataclass
class KeptKeys:
    """Keys and values of the text and the image tokens of one network in one phase: no step changes them. Compiled blocks
    compute theirs anew: what is kept would be a condition of their code. call: names the text that the network is reading."""

    call: Hashable = None
    _kept: dict[tuple[Any, str, Hashable], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    def get(self, attn: Any, part: str, rows: Tensor, compute: KeysValues) -> tuple[Tensor, Tensor]:
        """Of a block's attention; computed when the first call with that text asks."""
        if torch.compiler.is_compiling():
            return compute(attn, rows)
        key = (attn, part, self.call)
        if key not in self._kept:
            self._kept[key] = compute(attn, rows)
        return self._kept[key]

    def clear(self) -> None:
        self._kept.clear()
