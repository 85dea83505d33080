"""What a generation may be given, by kind."""

from collections.abc import Mapping
from types import MappingProxyType

from ..attention.experts import AttentionSettings
from ..attention.sparse import SparseSchedule
from ..checks import of_kind
from ..conditioning import Conditioning
from ..errors import RequestError
from ..request import SamplingRequest
from ..state import GenerationState
from .compiled import CompileSettings

KINDS: Mapping[str, type] = MappingProxyType(
    {"attention": AttentionSettings, "sparse": SparseSchedule, "compile": CompileSettings, "state": GenerationState}
)


def check_options(request: object, conditioning: object, cache: object, **optional: object) -> None:
    """Raises RequestError where one is of another kind. optional: those of `KINDS`."""
    of_kind("request", request, SamplingRequest, "give SamplingRequest(...).")
    of_kind("conditioning", conditioning, Conditioning, "give what model.condition(...) returns.")
    if cache is not None and not callable(cache):
        raise RequestError(f"cache is {cache!r:.80}: give with_magcache(...), with_dbcache(...) or None.")
    for name, value in optional.items():
        of_kind(name, value, (KINDS[name], type(None)), f"give {KINDS[name].__name__}(...), or None.")
