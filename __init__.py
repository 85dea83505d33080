"""FastVideo Nodes for ComfyUI: the engine is in `fastvideo_core/`, the nodes in `nodes/`; this file connects the two.

ComfyUI imports a pack under a name made of its file path. `nodes/` lives with that by being imported relatively only; the
engine is registered under its one canonical name, so that nodes, other packs, scripts and worker processes mean one module.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

WEB_DIRECTORY = "./web"

_CORE = "fastvideo_core"


async def comfy_entrypoint() -> Any:
    """Return the pack's `ComfyExtension`. Called once by ComfyUI's loader."""
    _register_core(Path(__file__).resolve().parent / _CORE)
    from .nodes import comfy_entrypoint as entrypoint_of_nodes

    return await entrypoint_of_nodes()


def _register_core(folder: Path) -> None:
    """Make `import fastvideo_core` mean `folder`, without putting the pack on `sys.path`.

    On the path, the pack's `nodes/` could shadow ComfyUI's own `nodes` module.

    Raises:
        ImportError: a copy of the engine from another folder is already imported.
    """
    loaded = sys.modules.get(_CORE)
    if loaded is not None:
        other = Path(str(loaded.__file__)).resolve().parent
        if other != folder:
            raise ImportError(
                f"FastVideo Nodes needs its own engine in {folder}, but {_CORE} is already imported from {other}. "
                "Keep one copy of the pack in custom_nodes (or uninstall the other copy) and restart ComfyUI."
            )
        return
    spec = spec_from_file_location(_CORE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"FastVideo Nodes is incomplete: there is no {folder / '__init__.py'}. Install the pack again.")
    core = module_from_spec(spec)
    sys.modules[_CORE] = core
    try:
        spec.loader.exec_module(core)
    except BaseException:
        del sys.modules[_CORE]
        raise
