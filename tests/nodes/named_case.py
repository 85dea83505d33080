"""Cases of `native_ranks` by their names, for tests with a ComfyUI of their own: the modules of a rank are imported there."""

import sys
from pathlib import Path
from typing import Any

from fastvideo_core.parallel import Mesh

sys.path.append(str(Path(__file__).resolve().parents[2] / "nodes" / "rank_path"))


def named_case(mesh: Mesh, name: str, *given: Any) -> Any:
    import native_ranks

    return getattr(native_ranks, name)(mesh, *given)
