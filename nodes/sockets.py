"""The sockets that ComfyUI does not have, and what an unconnected one brings."""

from typing import Any

from comfy_api.latest import io

from fastvideo_core import RunReport

from .native.phases import Phases
from .native.workers import NativeWorkers

SAMPLING, CONDITIONING, ACCELERATION, LOADING, ANALYSIS = (
    f"FastVideo/{area}" for area in ("sampling", "conditioning", "acceleration", "loading", "analysis")
)
"""Categories of nodes."""
FASTER = ("faster", "speed up", "accelerate", "optimize")
"""What people search for who want less seconds; whatever saves them is found by these."""

RunReportSocket = io.Custom("FASTVIDEO_RUN_REPORT")
RunReportSocket.Type = RunReport
PhasesSocket = io.Custom("FASTVIDEO_PHASES")
PhasesSocket.Type = Phases
WorkersSocket = io.Custom("FASTVIDEO_WORKERS")
WorkersSocket.Type = NativeWorkers

NOT_CONNECTED: Any = object()


def connected(value: Any) -> Any | None:
    """What an optional input got, or None when nothing is connected to it (its default is `NOT_CONNECTED`)."""
    return None if value is NOT_CONNECTED else value
