"""There are GPUs without float64 (Apple's, Intel's, those behind DirectML). Tensors stand on a GPU that is not there, and what
would be float64 on it raises as torch does on MPS."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastvideo_core.attention import Situation, exact_attention, faults, relative_error
from fastvideo_core.attention.sparse import (
    BSASettings,
    FlexKernel,
    Inputs,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    SparseSession,
    SparseSettings,
    STASettings,
    VSASettings,
)
from fastvideo_core.attention.sparse.measure import OutputErrors
from fastvideo_core.quality.flow import flow
from fastvideo_core.schedule import Phase

SIZE, TILE = (3, 2, 3), (2, 2, 2)
VARIANTS: list[SparseSettings] = [
    VSASettings(sparsity=0.5, tile=TILE), SLASettings(sparsity=0.5), BSASettings(tile=TILE), NABLASettings(window=(1, 1, 1)),
    STASettings(window=(1, 1, 1), tile=TILE),
]  # fmt: skip
PHASE = Phase(expert="single", start=0, stop=1, guidance_scale=1.0)


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and each.dtype == torch.float64 and each.device.type != "cpu":
                raise TypeError(f"{function}: Cannot convert a MPS Tensor to float64 dtype")
        return out


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, NoFloat64():
        yield mode


def there(given: Any, mode: FakeTensorMode) -> Any:
    """With its tensors on the GPU."""
    if isinstance(given, Tensor):
        return mode.from_tensor(given).to("cuda")
    if not is_dataclass(given):
        return given
    return replace(given, **{field.name: there(getattr(given, field.name), mode) for field in fields(given) if field.init})


class Reads(FlexKernel):
    """Flex attention has no rule for dispatch modes; this takes its plan and ignores it."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Any) -> Tensor:
        return q * v.mean()


def drawn(mode: FakeTensorMode) -> Inputs:
    return there(Inputs(*(tiny.normal((1, 18, 2, 16), i) for i in range(3))), mode)


def test_float64_on_the_gpu_is_found(mode: FakeTensorMode) -> None:
    with pytest.raises(TypeError, match="Cannot convert a MPS Tensor"):
        drawn(mode).q.double()


def test_the_exact_attention_of_a_probe_is_computed_on_the_cpu(mode: FakeTensorMode) -> None:
    given = drawn(mode)
    exact = exact_attention(given.q, given.k, given.v, there(torch.zeros(1, 1, 1, 18), mode))
    assert (exact.device.type, exact.dtype) == ("cpu", torch.float64)
    with pytest.raises(DataDependentOutputException):  # the number itself, which only a real tensor has
        relative_error(given.q, exact)


def test_a_type_error_in_a_trial_is_a_fault_of_the_kernel() -> None:
    def attend(*given: Any) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert faults(attend, Situation.on("cpu", torch.float32, 16)) == (
        "it raised TypeError in a trial: Cannot convert a MPS Tensor to float64 dtype",
    )


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda settings: settings.name)
def test_sparse_attention_and_its_account_need_none(settings: SparseSettings) -> None:
    session = SparseSession.open(SparseSchedule(settings=settings), PHASE, SIZE, torch.device("cpu"), Reads())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, NoFloat64():
        given = drawn(mode)
        session.attention, session._sums = there(session.attention, mode), there(session._sums, mode)
        session.attend(given)
        session.count_dense()
        assert session._sums.device.type == "cuda"


def test_measuring_the_error_of_an_output_needs_none() -> None:
    attention = VARIANTS[0].prepare(SIZE, torch.device("cpu"), Reads())
    network = tiny.t2v()
    errors = OutputErrors(VARIANTS[:1], [attention], torch.zeros(2, 1, 4))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, NoFloat64():
        errors.attentions, errors.sums = [there(attention, mode)], there(errors.sums, mode)
        errors.add(0, network.blocks[0].attn1.to("cuda"), there(tiny.normal((1, 18, 24), 3), mode), None)


def test_optical_flow_needs_none(mode: FakeTensorMode) -> None:
    ((motion, visible),) = flow(there(tiny.normal((3, 3, 40, 32), 0), mode))
    assert (motion.device.type, motion.dtype, visible.device.type) == ("cuda", torch.float32, "cuda")


def test_sums_begun_in_inference_mode_go_on_outside_of_it() -> None:
    with torch.inference_mode():
        session = SparseSession.open(SparseSchedule(settings=VARIANTS[0]), PHASE, SIZE, torch.device("cpu"), Reads())
    session.count_dense()
    assert session.report().dense_calls == 1
