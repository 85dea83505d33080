"""What is around Ray's processes: the token without which nobody is let in, and what ends them with this one."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_token() -> None:
    """In Ray's own place for it, where its tools find it too, if there is none; readable by this user alone."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") != "token":
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        part.replace(path)
    path.chmod(0o600)


@contextmanager
def during(name: str, value: str) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def guarded() -> Iterator[None]:
    """Nothing of Ray outlives this process, nor this context: see `guard`. Windows ends processes with their parent."""
    if os.name != "posix":
        yield
        return
    command = [sys.executable, str(Path(__file__).with_name("guard.py")), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield
