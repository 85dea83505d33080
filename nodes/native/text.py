"""The zero rows of a MODEL's prompts, folded in cross-attention: exact but for rounding (`fastvideo_core.attention.FoldedText`).

Core hands its network all rows of a text in every call, and so do other packs' wrappers. Where the network embeds the text, in a
generation it embeds the rows that the fold keeps; and its own cross-attention modules say that in their calls, so that the bias
meets the text's scores and no others.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from comfy.ldm.wan.model import WanI2VCrossAttention, WanT2VCrossAttention
from torch import Tensor

from fastvideo_core import RequestError, TextReport
from fastvideo_core.attention import FoldedText, text_report

from .blocks import attention_blocks, wrapped_forwards
from .call import NetworkCall

CHANGED = "the network's cross-attention was changed"


class GenerationText:
    """The prompts of one generation, and how the network reads them.

    They are known before the run, as what the guider holds, so no call waits for the device to count rows. All prompts of one
    length are cut to one length: branches go in one batch, and compiled blocks see one shape. What the network is given in fact
    is looked at on the device, and told at the end.
    """

    def __init__(self, folds: Mapping[int, FoldedText], device: torch.device, why_not: str = "") -> None:
        """folds: of the prompts, by their number of rows. why_not: the reason to read all rows, if there is one."""
        self.why_not = why_not
        self._read: dict[int, tuple[FoldedText | None, str]] = {}  # by the number of rows that were given
        self._lost = {device: torch.zeros((), dtype=torch.bool, device=device)}  # whether a row with a text in it was cut off
        self._folds = {} if why_not else folds

    @classmethod
    def of(cls, guider: Any, why_not: str = "") -> "GenerationText":
        """guider: core's, about to sample."""
        return cls({} if why_not else folds_of(guider), guider.model_patcher.load_device, why_not)

    def fold(self, length: int, as_made: bool) -> FoldedText | None:
        """How the network reads a text with so many rows; None: as it is. as_made: its cross-attention takes a fold."""
        fold = self._folds.get(length) if as_made else None
        self._read[length] = (fold, self.why_not or ("" if as_made else CHANGED))
        return fold

    def cut(self, context: Tensor, fold: FoldedText) -> Tensor:
        """Of a text, (B, L, D), the rows that are read. What it remembers it writes into one tensor: a compiled network would be
        compiled anew for anything else that changes."""
        if context.device not in self._lost:
            self._lost[context.device] = torch.zeros((), dtype=torch.bool, device=context.device)
        self._lost[context.device].logical_or_((context[:, fold.real :] != 0).any())
        return context[:, : fold.rows]

    def check(self) -> None:
        """Raises RequestError where the network was given another text than the prompts, and part of it was cut off."""
        if any(map(bool, self._lost.values())):
            raise RequestError(
                "FastVideo Attention folded the zero rows of the prompts, and in this run a patch of another pack gave the "
                "network a longer text, of which the end was not read. Turn fold_text off, or remove that patch."
            )

    def reports(self, expert: Any) -> tuple[TextReport, ...]:
        """One for each length of text."""
        return tuple(text_report(expert, length, fold, why) for length, (fold, why) in self._read.items())


def takes_fold(network: Any) -> bool:
    """Whether cross-attention in all blocks is core's own. Another pack's, put there as an object patch, may compute in its own
    way."""
    modules = [block.cross_attn for _, block in attention_blocks(network)]
    return len(modules) >= len(network.blocks) and all(map(_is_own, modules))


def _is_own(module: Any) -> bool:
    own = type(module) in (WanT2VCrossAttention, WanI2VCrossAttention)
    return own and getattr(module.forward, "__func__", None) is type(module).forward


@contextmanager
def reading(network: Any, text: GenerationText | None, context: Tensor, call: NetworkCall) -> Iterator[None]:
    """For one call of core's network with this text, (B, L, D). text: None where nothing is to be folded."""
    fold = None if text is None else text.fold(context.shape[1], takes_fold(network))
    if text is None or fold is None:
        yield
        return
    fold = fold.to(context)
    modules = [block.cross_attn for _, block in attention_blocks(network)]
    saying = partial(_saying, call=call, fold=fold)
    across = [(module, partial(saying, reads_image=type(module) is WanI2VCrossAttention)) for module in modules]
    embedding = (network.text_embedding, partial(_embedding, text=text, fold=fold, length=context.shape[1]))
    with wrapped_forwards([embedding, *across]):
        yield


def bias_of(call: NetworkCall, keys: int) -> Tensor | None:
    """What a call with so many keys adds to its scores: those of image tokens get nothing."""
    fold = call.fold
    return None if fold is None or keys != fold.rows else fold.bias


def folds_of(guider: Any) -> dict[int, FoldedText]:
    """Of the prompts of core's guider, which is about to sample; by their number of rows."""
    texts: dict[int, list[Tensor]] = {}
    for conds in guider.conds.values():
        for cond in conds or ():
            if cond.get("cross_attn") is not None:
                texts.setdefault(cond["cross_attn"].shape[1], []).append(cond["cross_attn"])
    model = guider.model_patcher
    folds = {
        length: FoldedText.of(given, model.model.get_dtype_inference(), model.load_device) for length, given in texts.items()
    }
    return {length: fold for length, fold in folds.items() if fold is not None}


def _embedding(forward: Any, text: GenerationText, fold: FoldedText, length: int) -> Callable[[Tensor], Tensor]:
    def embedding(context: Tensor) -> Tensor:
        embedded: Tensor = forward(text.cut(context, fold) if context.shape[1] == length else context)
        return embedded

    return embedding


def _saying(forward: Any, call: NetworkCall, fold: FoldedText, reads_image: bool) -> Callable[..., Any]:
    def saying(x: Tensor, context: Tensor, *args: Any, **kwargs: Any) -> Any:
        _check_rows(fold, context.shape[1], (kwargs.get("context_img_len") or 0) if reads_image else 0)
        call.fold = fold
        out = forward(x, context, *args, **kwargs)
        call.fold = None
        return out

    return saying


def _check_rows(fold: FoldedText, rows: int, image: int) -> None:
    """Text and image tokens are told apart by their numbers."""
    if rows != image + fold.rows or image == fold.rows:
        raise RequestError(
            f"FastVideo Attention folded the prompts into {fold.rows} rows, and the network's cross-attention got {rows} with "
            f"{image} image tokens: a patch of another pack gives it another text. Turn fold_text off, or remove that patch."
        )
