"""Files that are whole or not there, whatever ends the writing: a full disk, a signal, an error."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import RequestError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file, which is put there when it is complete and on the disk. Its ending is another one,
    so that nobody takes it for such a file.

    Raises:
        RequestError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            yield part
            _reach_disk(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file.

    Raises:
        RequestError: in the place of the system's error.
    """
    try:
        yield
    except OSError as error:  # PyAV's and Pillow's too
        raise RequestError(
            f"{path} cannot be written: {error.strerror or error}. It needs a folder that exists and takes files, and room on "
            "its disk."
        ) from error


def _reach_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
