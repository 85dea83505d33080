"""What `make test-gpu` says of a machine without a GPU, and how it reads pytest's results."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.gpu import BENCHES, read_junit

ROOT = Path(__file__).resolve().parents[2]

CASES = """
import pytest


def test_good():
    pass


def test_bad():
    assert 1 == 2


@pytest.mark.skip(reason="not today")
def test_left_out():
    pass


@pytest.fixture
def broken():
    raise RuntimeError("cannot be made")


def test_without(broken):
    pass
"""


def test_each_outcome_of_pytest_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "tests.xml", "--rootdir", "."]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=False)
    read = read_junit((tmp_path / "tests.xml").read_text())
    assert {case["test"].rpartition("::")[2]: (case["outcome"], case["message"]) for case in read} == {
        "test_good": ("passed", ""),
        "test_bad": ("failed", "assert 1 == 2"),
        "test_left_out": ("skipped", "not today"),
        "test_without": ("error", 'failed on setup with "RuntimeError: cannot be made"'),
    }
    assert all(case["seconds"] >= 0 for case in read)


@pytest.mark.skipif(torch.cuda.is_available(), reason="states what a machine without a GPU is told")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.gpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "torch sees no CUDA device here" in done.stderr


def test_its_benchmarks_are_commands_that_there_are() -> None:
    from tools.bench.__main__ import parser

    for bench in BENCHES:
        assert parser().parse_args(bench).device == "cuda"
