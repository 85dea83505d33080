"""From the name of a sparse kernel to one that has been tried: it runs, or says every reason why not."""

from dataclasses import dataclass
from types import MappingProxyType

from ...errors import NumericsError, RequestError
from ..backends import AMPERE, FLOATS
from ..requirements import Capability, Compiler, Device, On, Requirement, Situation, Torch, unmet, where
from .flex import FlexKernel
from .gather import GatherKernel
from .kernel import Kernel, KernelName
from .probe import faults
from .schedule import SparseSchedule


@dataclass(frozen=True)
class _Row:
    title: str
    requirements: tuple[Requirement, ...]
    remedy: str


KERNELS: MappingProxyType[KernelName, _Row] = MappingProxyType(
    {
        "flex": _Row(
            "FlexAttention by blocks, compiled",  # torch 2.9: BlockMask.from_kv_blocks(compute_q_blocks=False)
            (Torch("2.9"), Device(("cuda", "cpu")), FLOATS, Compiler(), On("cuda", (Capability(AMPERE),))),
            "Choose the kernel gather, which is plain torch and runs anywhere",
        ),
        "gather": _Row("plain torch", (), "Leave sparse attention out"),
    }
)  # fmt: skip


def kernel_of(name: KernelName) -> Kernel:
    """flex: FlexAttention, compiled. gather: plain torch, for where nothing can be compiled."""
    return GatherKernel() if name == "gather" else FlexKernel()


def prepare_kernel(sparse: SparseSchedule, situation: Situation) -> Kernel:
    """The kernel that was asked for, tried with tiles of the widths that it will get.

    Raises:
        RequestError: it cannot run there; the message has every reason.
        NumericsError: it runs and gives wrong values.
    """
    row = KERNELS[sparse.kernel]
    asked = f"The sparse attention kernel {sparse.kernel} ({row.title})"
    reasons = unmet(row.requirements, situation)
    if reasons:
        raise RequestError(f"{asked} cannot run here ({where(situation)}): it {'; it '.join(reasons)}. {row.remedy}.")
    kernel = kernel_of(sparse.kernel)
    widths = {settings.widths: None for settings in (sparse.settings, sparse.low_noise) if settings is not None}
    wrong = [fault for each in widths for fault in faults(kernel, situation, each)]
    if wrong:
        raise NumericsError(f"{asked} is broken here ({where(situation)}): {'; '.join(wrong)}. {row.remedy}.")
    return kernel
