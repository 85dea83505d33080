"""The pack's one module on the path of a rank's process, by a name that nobody else has: `nodes/` itself there would shadow
ComfyUI's, and core's modules want their options before they are imported."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "fastvideo_native"
FOLDER = Path(__file__).resolve().parents[1] / "native"


def networks(mesh: Any, stop: Any, options: Mapping[str, Any]) -> Any:
    """What a rank is: its `RankNetworks`. options: as for `native`."""
    return native(options)("rank_network").RankNetworks(mesh, lambda: stop.asked)


def native(options: Mapping[str, Any]) -> Callable[[str], ModuleType]:
    """What imports a module of the pack's `nodes/native` by its name.

    Args:
        options: ComfyUI's own, of its command line, by their names: those of the ComfyUI that asks; "fast" as a list of words.
    """
    from comfy.cli_args import PerformanceFeature, args

    vars(args).update(options)
    args.fast = set(map(PerformanceFeature, options.get("fast", ())))
    if PACKAGE not in sys.modules:
        spec = spec_from_file_location(PACKAGE, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
        assert spec is not None
        sys.modules[PACKAGE] = module_from_spec(spec)
    return lambda name: import_module(f"{PACKAGE}.{name}")
