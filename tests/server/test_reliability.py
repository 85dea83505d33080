"""A small sample of each part of tools/reliability, which a release runs in full: prompts, files, interrupts, two servers, load.

Of the others, a killed server is in test_states.py, and a full disk in tests/nodes/test_disk_full.py.
"""

import math
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.comfy_server import ComfyServer
from tools.reliability import files, interrupts, load, prompts, two
from tools.reliability.case import Case, Place
from tools.reliability.load import Slope
from tools.reliability.servers import demo_server
from tools.reliability.shipped import own, plain, shipped

ELSEWHERE = ("fp8_scaled", "CLIPLoader", "Workers")
"""In the names of readers that take the templates' files or workers."""
MUTATED = ("demo_phases", "demo_compare")
INTERRUPTED = ("demo_two_experts", "demo_4_steps", "demo_i2v")
ALLOWED_GROWTH = 150 * 2**20  # bytes; one run of this size holds about 1 MB, and ComfyUI keeps the last outputs


@pytest.fixture(scope="module")
def place(comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(comfyui_tree, tmp_path_factory.mktemp("reliability"), seed=0)


@pytest.fixture(scope="module")
def server(place: Place, comfy_server: ComfyServer) -> Iterator[ComfyServer]:
    """With the output folder of the session's, whose cache would give a result again that is to be made anew."""
    with demo_server(place.tree, place.base, output=comfy_server.output) as server:
        yield server


def faults(cases: list[Case]) -> list[tuple[str, str, str]]:
    return [(case.what, case.fault, case.words) for case in cases if case.fault]


def test_mutated_prompts_are_all_answered_and_the_server_lives(server: ComfyServer, place: Place) -> None:
    good = {name: shipped(name) for name in MUTATED} | dict(own())
    cases = list(prompts.on(server, good, place, range(4 * len(good))))
    assert faults(cases) == []
    assert {"refused", "failed", "ran"} <= {case.answer for case in cases}


def test_damaged_files_are_named_and_the_server_lives(server: ComfyServer, place: Place) -> None:
    numbers = [number for number, (name, _) in enumerate(files.PAIRS) if not any(word in name for word in ELSEWHERE)]
    cases = list(files.on(server, place, sorted(random.Random(0).sample(numbers, 24))))
    assert faults(cases) == []
    assert "failed" in {case.answer for case in cases}


def test_interrupted_runs_leave_nothing_in_the_next_one(server: ComfyServer, place: Place) -> None:
    good = {name: shipped(name) for name in INTERRUPTED}
    cases = list(interrupts.on(server, good, place, range(2 * len(good))))
    assert faults(cases) == []
    assert "interrupted" in {case.answer for case in cases}


def test_two_servers_with_one_output_folder_overwrite_nothing(server: ComfyServer, comfy_server: ComfyServer) -> None:
    assert faults(list(two.on(server, comfy_server, range(2)))) == []


def test_many_prompts_keep_no_memory(server: ComfyServer) -> None:
    cases = list(load.on(server, {"plain": plain()}, range(25)))
    assert faults(cases) == []
    assert cases[-1].figures["memory"] - cases[4].figures["memory"] < ALLOWED_GROWTH


def test_slope_and_its_error_are_those_of_least_squares() -> None:
    assert Slope.of([5.0, 7.0, 9.0, 11.0]) == Slope(2.0, 0.0)
    uneven = Slope.of([1.0, 0.0, 1.0, 0.0])
    assert math.isclose(uneven.value, -0.2) and math.isclose(uneven.error, math.sqrt(0.8 / 2 / 5))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"text"', b"{}", b'{"prompt": null}', b'{"prompt": []}', b'{"prompt": {"1": null}}',
             b'{"prompt": {"1": {"inputs": {}}}}', b"\xff\xfe", b'{"prompt": ' * 2000],
)  # fmt: skip
def test_malformed_request_is_answered_with_an_error(comfy_server: ComfyServer, body: bytes) -> None:
    request = urllib.request.Request(f"{comfy_server.url}/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request, timeout=30)
    assert answer.value.code in (400, 500)
    assert comfy_server.request("/system_stats")
