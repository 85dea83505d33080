"""What workers cost and leave behind, as it is told. The prompts themselves run in tests/server/test_workers.py."""

from tools.bench.growth import Growth, Held
from tools.bench.overhead import Overhead, Steps
from tools.bench.workers_page import growth_table, overhead_table


def test_the_overhead_is_of_medians_and_of_the_fastest_steps() -> None:
    found = Overhead(2, (Steps((0.010, 0.020), (0.015, 0.040)), Steps((0.012, 0.030), (0.035, 0.090))))
    assert overhead_table([found])[-1] == "| 2 | 16.0 | 37.5 | 21.5 | 5.0 |"


def test_growth_is_told_of_each_kind() -> None:
    before = Held(threads=100, handles=200, own={1: 2**29, 2: 2**29}, shared=2**20)
    growth = Growth(prompts=50, before=before, after=Held(100, 202, {1: 2**29, 2: 2**29 + 2**23}, 2**20))
    rows = growth_table(growth)
    assert rows[0] == "| | after 10 prompts of 2 steps | after 60 prompts of 2 steps | |"
    assert "| open files and sockets | 200 | 202 | +1.0% |" in rows and "| memory, MiB | 1024.0 | 1032.0 | +0.8% |" in rows
    assert "| in /dev/shm, MiB | 1.0 | 1.0 | +0.0% |" in rows and growth.most() == 2**23
