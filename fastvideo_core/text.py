"""Wan's text recipe, without any model: clean the prompt, and bring its embedding to the 512 rows that the network reads.

No mask follows the text into the transformer: the rows beyond the prompt are zeros, as in training (Wan2.1, wan/modules/t5.py
keeps the real rows and wan/modules/model.py pads them with zeros to 512).
"""

import html
import re
from collections.abc import Sequence

from torch import Tensor

from .conditioning import TEXT_TOKENS
from .errors import ConditioningError


def clean_prompt(prompt: str) -> str:
    """Mended encoding, HTML entities resolved (twice: "&amp;lt;" is "<"), single spaces. As diffusers' prompt_clean with
    ftfy installed (pipelines/wan/pipeline_wan.py), which is Wan's own "whitespace" cleaning (wan/modules/tokenizers.py)."""
    import ftfy

    unescaped = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", unescaped).strip()


def pad_rows(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """The first `lengths[b]` rows of each sample, zeros after them.

    Args:
        hidden: encoder output (B, L, D); rows beyond a sample's length are not looked at.
        lengths: real rows of each sample, end token included; at most 512.

    Returns: (B, 512, D).

    Raises:
        ConditioningError: a length is more than 512 or more than L, or there is not one length per sample.
    """
    batch, rows, width = hidden.shape
    if len(lengths) != batch or any(not 0 <= length <= min(rows, TEXT_TOKENS) for length in lengths):
        raise ConditioningError(
            f"Text rows {list(lengths)} were asked of an embedding of shape {tuple(hidden.shape)}: give one length per "
            f"sample, at most {min(rows, TEXT_TOKENS)}."
        )
    padded = hidden.new_zeros(batch, TEXT_TOKENS, width)
    for sample, length in enumerate(lengths):
        padded[sample, :length] = hidden[sample, :length]
    return padded
