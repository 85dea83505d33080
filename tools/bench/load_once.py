"""One load of the pack, as JSON; a module of its own, for it must not import the engine before ComfyUI's loader does."""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.comfy_in_process import ComfyInProcess

PACK = Path(__file__).resolve().parents[2]


def main() -> None:
    with TemporaryDirectory() as base:
        comfy = ComfyInProcess(Path(os.environ["COMFYUI_PATH"]), Path(base))
        before, started, worked = len(sys.modules), time.perf_counter(), time.process_time()
        comfy.load_pack(PACK)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "modules": len(sys.modules) - before}))


if __name__ == "__main__":
    main()
