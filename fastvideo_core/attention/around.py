"""Where something goes around the self-attention of diffusers' Wan network, whichever computes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .compiling import apart
from .dense import Attend
from .processors import AttentionProcessor
from .sparse.processor import placed

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@contextmanager
def around_self_attention(transformer: "WanTransformer3DModel", wrap: Callable[[Attend], Attend]) -> Iterator[None]:
    """Each block's self-attention is computed by `wrap(what computes it)`, which is a piece of its own among compiled code;
    afterwards, also on interrupt, as before. It goes into `lean_attention` and `attending`, and around `sparse_attention`.

    Raises:
        RequestError: a stack is in the place of the blocks, or another's processor on the network.
    """
    wrapped: dict[Any, AttentionProcessor] = {}  # one for all blocks that have one: compiled code tells them apart

    def processor(before: Any, _layer: int) -> AttentionProcessor:
        if not isinstance(before, AttentionProcessor):
            raise RequestError(
                f"The network has attention processors of type {type(before).__name__}, and self-attention was to be shared by "
                "several ranks, or ended between blocks. Take them off."
            )
        if before not in wrapped:
            wrapped[before] = AttentionProcessor(apart(wrap(before.attend)), before.text)
        return wrapped[before]

    with placed(transformer, processor):
        yield
