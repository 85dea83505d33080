"""`make bench`, or python -m tools.bench [loop] [--device cuda --size 1.3B-480p] [--steps 10] [--rounds 9] [--threads 1].
`make bench ARGS=curves`, or python -m tools.bench curves [--clips 8] [--threads 1].

loop needs COMFYUI_PATH, which `make bench` sets.
"""

import argparse
import os
import shlex
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=["loop", "curves"], default="loop",
        help="loop: what is around the transformer calls; curves: what step caches save and change",
    )  # fmt: skip
    parser.add_argument("--clips", type=int, default=8, help="curves: prompts and seeds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", default="small", help="small, or 1.3B-480p with random weights")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    asked = vars(parser.parse_args())
    threads = asked.pop("threads")
    if asked["device"] == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ComfyUI would take a GPU that it sees
    import torch

    if threads is not None:
        torch.set_num_threads(threads)

    command = shlex.join(["python", "-m", "tools.bench", *sys.argv[1:]])
    what, clips = asked.pop("what"), asked.pop("clips")
    if what == "curves":
        from . import curves, curves_page

        print(curves_page.report(curves.run(clips), clips, command))
        return
    from . import loop

    print(loop.report(loop.run(**asked), **asked, command=command))


if __name__ == "__main__":
    main()
