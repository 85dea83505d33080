"""Mutated prompts: each is answered, every refusal of a node is meant, and the server lives on."""

from collections.abc import Iterator, Mapping, Sequence

from tools.comfy_client import ServerError
from tools.comfy_server import ComfyServer

from .answers import answer
from .case import Case, Place
from .mutations import Prompt, mutated
from .servers import equal, made, template_server
from .shipped import NAMES, own, plain, shipped

COUNT = 500


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """Over all shipped prompts, and those with the nodes that are in none of them."""
    with template_server(place.tree, place.base) as server:
        yield from on(server, {name: shipped(name) for name in NAMES} | dict(own()), place, numbers)


def on(server: ComfyServer, good: Mapping[str, Prompt], place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """One prompt's after another's, for their models are loaded then. The last one tells whether a plain prompt gives what it
    gave before."""
    before = made(server, plain())
    names = list(good)
    numbers = sorted(numbers, key=lambda number: number % len(names))
    for number in numbers:
        name = names[number % len(names)]
        prompt, changes = mutated(good[name], place.chance("prompts", number))
        case = _case(server, prompt, number, f"{name}; {'; '.join(changes)}")
        if number == numbers[-1] and not equal(made(server, plain()), before):
            case = Case(number=number, what=case.what, answer=case.answer, fault="the next plain prompt gives another video")
        yield case


def _case(server: ComfyServer, prompt: Prompt, number: int, what: str) -> Case:
    try:
        given = answer(server, prompt)
        return Case(number=number, what=what, answer=given.kind, words=given.words, fault=given.broken)
    except ServerError as error:
        server.stop()
        server.start()
        return Case(number=number, what=what, answer="no answer", words=str(error), fault="the server was gone")
