"""What backends need, said in words: nothing here runs a kernel or imports an optional package."""

import sys

import pytest
import torch

from fastvideo_core import RequestError
from fastvideo_core.attention import BACKENDS, Situation, mask_kind, survey
from fastvideo_core.attention.requirements import (
    Capability,
    Device,
    Dtypes,
    HeadDim,
    Masks,
    On,
    Package,
    Torch,
    release,
    unmet,
)  # fmt: skip

CUDA = torch.device("cuda", 0)
OPTIONAL = ("flash_attn", "flash_attn_interface", "sageattention", "sageattn3", "xformers")


def gpu(capability: tuple[int, int], dtype: torch.dtype = torch.bfloat16, head_dim: int = 128, mask: str = "none") -> Situation:
    """An NVIDIA GPU that need not be there: requirements read the situation only."""
    return Situation(CUDA, dtype, head_dim, mask, capability)  # type: ignore[arg-type]


def test_package_is_judged_by_its_version_without_importing_it() -> None:
    here = Situation.on("cpu", torch.float32, 64)
    assert Package("pytest", "pytest").unmet(here) == ()
    assert Package("pytest", "pytest", "1.0", below="1000").unmet(here) == ()
    assert Package("pytest", "pytest", "1000").unmet(here) == (
        f"needs the package pytest >= 1000; {pytest.__version__} is installed",
    )
    assert "pytest < 2" in Package("pytest", "pytest", below="2").unmet(here)[0]
    assert Package("no-such", "no_such_module").unmet(here) == ("needs the package no-such, which is not installed",)
    assert "does not tell its version" in Package("no-such", "json", "1.0").unmet(here)[0]


@pytest.mark.parametrize(("version", "numbers"), [("2.11.0+cu128", (2, 11, 0)), ("3.0.0b1", (3, 0, 0)), ("dev", ())])
def test_versions_are_compared_by_their_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers


def test_each_reason_says_what_is_wanted_and_what_is_there() -> None:
    assert Capability((9, 0), below=(10, 0)).unmet(gpu((12, 0))) == (
        "needs an NVIDIA GPU of compute capability 9.0 or more and below 10.0; this one has 12.0",
    )
    assert Capability((8, 0)).unmet(Situation.on("cpu", torch.float32, 64))[0].endswith("the device is cpu")
    assert Dtypes((torch.float16, torch.bfloat16)).unmet(gpu((9, 0), torch.float32)) == (
        "computes in float16 or bfloat16; the model's is float32",
    )
    assert HeadDim(exactly=(64, 96, 128)).unmet(gpu((9, 0), head_dim=80)) == (
        "takes a head_dim of 64, 96 or 128; the model's is 80",
    )
    assert HeadDim(most=256, multiple=8).unmet(gpu((9, 0), head_dim=260))[0].endswith("up to 256; the model's is 260")
    assert Masks(("padding",)).unmet(gpu((9, 0), mask="dense")) == ("takes no mask or a padding mask; the call has a dense mask",)
    assert Torch("99").unmet(gpu((9, 0)))[0].startswith("needs torch >= 99; ")
    assert Device(("cpu",)).unmet(gpu((9, 0))) == ("runs on cpu; the device is cuda",)


def test_requirements_of_one_device_hold_there_only_and_reasons_add_up() -> None:
    halves = On("cuda", (Dtypes((torch.float16,)), Capability((8, 0))))
    assert halves.unmet(Situation.on("cpu", torch.float32, 64)) == ()
    assert len(unmet([halves, HeadDim(most=64)], gpu((7, 5), torch.float32))) == 3


@pytest.mark.parametrize(
    ("name", "situation", "reasons"),
    [
        ("sdpa_flash", gpu((9, 0)), 0),
        ("sdpa_flash", gpu((7, 5), torch.float32, 320, "bias"), 4),
        ("sdpa_cudnn", gpu((9, 0), mask="dense"), 0),
        ("sdpa_efficient", gpu((6, 1), torch.float32, mask="bias"), 0),
        ("sdpa", Situation.on("cpu", torch.float64, 7), 0),
    ],
)
def test_rows_of_torch_itself(name: str, situation: Situation, reasons: int) -> None:
    assert len(BACKENDS[name].unmet(situation)) == reasons


def test_survey_names_every_backend_and_puts_those_that_can_first() -> None:
    found = survey(Situation.on("cpu", torch.bfloat16, 128))
    assert found.keys() == BACKENDS.keys()
    able = [not reasons for reasons in found.values()]
    assert able == sorted(able, reverse=True)
    assert {"sdpa", "sdpa_math", "sdpa_flash"} <= {name for name, reasons in found.items() if not reasons}


def test_looking_imports_no_optional_package() -> None:
    before = {name for name in OPTIONAL if name in sys.modules}
    survey(gpu((9, 0)))
    assert {name for name in OPTIONAL if name in sys.modules} == before


def test_kinds_of_masks() -> None:
    assert mask_kind(None) == "none"
    assert mask_kind(torch.ones(2, 5, dtype=torch.bool)) == "padding"
    assert mask_kind(torch.ones(1, 1, 4, 5, dtype=torch.bool)) == "dense"
    assert mask_kind(torch.zeros(1, 1, 4, 5)) == "bias"


@pytest.mark.parametrize("mask", [torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5), torch.ones(2, 4, 5, dtype=torch.bool)])
def test_masks_that_libraries_read_in_different_ways_are_refused(mask: torch.Tensor) -> None:
    with pytest.raises(RequestError, match=r"An attention mask of torch\..* was given\. Give a bool one"):
        mask_kind(mask)
