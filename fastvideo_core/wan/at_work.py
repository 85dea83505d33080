"""A network that is at work belongs to one generation: its weights move, and other modules sit in the place of its own."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from ..errors import RequestError

_MARK = "_fastvideo_at_work"


@contextmanager
def at_work(networks: Iterable[nn.Module]) -> Iterator[None]:
    """The networks belong to one generation; afterwards, also on interrupt, to none.

    Raises:
        RequestError: one of them is at work already.
    """
    networks = list({id(network): network for network in networks}.values())
    mark = object()
    try:
        for network in networks:
            if vars(network).setdefault(_MARK, mark) is not mark:  # in one look: a thread may have another generation
                raise _at_work("A second generation was asked for")
        yield
    finally:
        for network in networks:
            if vars(network).get(_MARK) is mark:
                del vars(network)[_MARK]


def check_idle(network: nn.Module, asked: str) -> None:
    """Raises RequestError while a generation of the network is open. asked: what cannot be done meanwhile, as a sentence."""
    if _MARK in vars(network):
        raise _at_work(asked)


def _at_work(asked: str) -> RequestError:
    return RequestError(
        f"{asked}, and the network is at work in a generation that is open. Run that one to its end, or close() it, before."
    )
