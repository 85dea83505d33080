"""A program that ends what is left of Ray where the process that started it is gone: some of Ray's agents hang then, and stay.

Its input is a pipe of that process, which nobody writes to: it ends with the process, however that ends.
"""

import select
import sys

import psutil

SECONDS = 5
"""Between two looks at what there is of Ray."""


def main() -> None:
    parent = int(sys.argv[1])
    found = _of_ray(parent)
    while not select.select([sys.stdin], [], [], SECONDS)[0]:
        found = {each for each in found if each.is_running()} | _of_ray(parent)
    for process in found:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # it ended, as it should
            continue


def _of_ray(parent: int) -> set[psutil.Process]:
    """What it started of Ray, and what that started; none where it is gone."""
    try:
        return {each for each in psutil.Process(parent).children(recursive=True) if _is_of_ray(each)}
    except psutil.NoSuchProcess:
        return set()


def _is_of_ray(process: psutil.Process) -> bool:
    try:
        return bool(process.name().startswith("ray::")) or any("/ray/" in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


if __name__ == "__main__":
    main()
