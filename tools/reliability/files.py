"""Damaged files through every node that reads one of a user's choice: the error names the file, and the next run is as before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tools.comfy_client import ServerError
from tools.comfy_server import ComfyServer

from .answers import Answer, answer
from .case import Case, Place
from .interrupts import seeded
from .mutations import Prompt
from .readers import READERS, Reader
from .servers import equal, made, template_server
from .shipped import plain

PAIRS = [(name, damage) for name, reader in READERS.items() for damage in reader.damages]
COUNT = len(PAIRS)
"""Each reader with each damage."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    with template_server(place.tree, place.base) as server:
        yield from on(server, place, numbers)


def on(server: ComfyServer, place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """numbers: of `PAIRS`. The last case tells of the plain run after it.

    Raises:
        PromptFailed: a whole file cannot be read, so that nothing could be told of damaged ones.
    """
    before, whole = made(server, plain()), dict[str, bytes]()
    for number in numbers:
        name, damage = PAIRS[number]
        if name not in whole:
            whole[name] = READERS[name].whole(server)
            _read(server, READERS[name], whole[name])
        case = _case(server, number, READERS[name].damages[damage](whole[name], place.chance("files", number)))
        if number == numbers[-1] and not equal(made(server, plain()), before):
            case = replace(case, fault="the next plain prompt gives another video")
        yield case


def _read(server: ComfyServer, reader: Reader, content: bytes) -> None:
    with _placed(server, reader, COUNT, content) as prompt:
        server.wait(server.post(prompt))


@contextmanager
def _placed(server: ComfyServer, reader: Reader, number: int, content: bytes) -> Iterator[Prompt]:
    """What reads it; of a file whose name is always the same with a seed of its own, so that it is read anew."""
    file = reader.file(server, number)
    file.write_bytes(content)
    try:
        prompt = reader.prompt(file.name)
        yield seeded(prompt, number + 1) if reader.fixed else prompt
    finally:
        file.unlink()


def _case(server: ComfyServer, number: int, content: bytes) -> Case:
    name, damage = PAIRS[number]
    reader, what = READERS[name], f"{name}: {damage}"
    try:
        with _placed(server, reader, number, content) as prompt:
            given = answer(server, prompt)
        fault = given.broken or (_fault(reader, damage, reader.file(server, number).name, given) if reader.ours else "")
        return Case(number=number, what=what, answer=given.kind, words=given.words, fault=fault)
    except ServerError as error:
        server.stop()
        server.start()
        return Case(number=number, what=what, answer="no answer", words=str(error), fault="the server was gone")


def _fault(reader: Reader, damage: str, name: str, given: Answer) -> str:
    if damage in reader.bearable:
        return ""
    if given.kind == "ran":
        return "it was read as if it were whole"
    return "" if name in given.words else "the error does not name the file"
