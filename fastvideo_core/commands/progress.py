"""What a person watches while a generation runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..generate import Step


@contextmanager
def steps_bar(name: str, steps: int) -> Iterator[Callable[[Step], None]]:
    """A bar that each step moves on, and that goes when it is done; on a terminal only."""
    from tqdm import tqdm

    with tqdm(total=steps, desc=name, unit="step", leave=False, disable=None) as bar:

        def each_step(step: Step) -> None:
            bar.update()

        yield each_step
