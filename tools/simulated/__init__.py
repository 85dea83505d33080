"""A GPU that is not there: operations on it have shapes, dtypes and a place, and no values; what they allocate, compute and wait
for is counted. So networks of any size run on a computer without one."""

from .flops import Flops
from .gpu import SimulatedGPU, simulated
from .memory import Allocated, Flash
from .waits import Wait, Waits

__all__ = ["Allocated", "Flash", "Flops", "SimulatedGPU", "Wait", "Waits", "simulated"]
