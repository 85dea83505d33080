"""`make bench`, or python -m tools.bench [loop] [--device cuda --size 1.3B-480p] [--steps 10] [--rounds 9] [--threads 1].
`make bench ARGS=profile`, or python -m tools.bench profile, with the same options.
`make bench ARGS=scale`, or python -m tools.bench scale [--size medium] [--rounds 5].
`make bench ARGS=workers`, or python -m tools.bench workers [--prompts 50] [--rounds 9] --threads 1.
`make bench ARGS=curves`, or python -m tools.bench curves [--clips 8] [--threads 1]; sparse likewise.
`make bench ARGS="real --device cuda --size 14B-480p --steps 4"`, or python -m tools.bench real --steps 4 [--minutes 8].
`make bench ARGS=paper`, or python -m tools.bench paper.
`make bench ARGS=load`, or python -m tools.bench load [--rounds 9].

loop, load, real, workers and paper need COMFYUI_PATH, which `make bench` sets.
"""

import argparse
import os
import shlex
import sys


def main() -> None:
    asked = vars(parser().parse_args())
    threads, what, clips, prompts, minutes = (asked.pop(name) for name in ("threads", "what", "clips", "prompts", "minutes"))
    if asked["device"] == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ComfyUI would take a GPU that it sees
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    command = shlex.join(["python", "-m", "tools.bench", *sys.argv[1:]])
    if what == "curves":
        from . import curves, curves_page

        print(curves_page.report(curves.run(clips), clips, command))
    elif what == "sparse":
        from . import sparse, sparse_page

        print(sparse_page.report(sparse.run(clips), clips, command))
    elif what == "scale":
        from . import scale, scale_page

        size, rounds = asked["size"], asked["rounds"]
        print(scale_page.report(scale.run(size, rounds), size, rounds, command))
    elif what == "real":
        from . import real, real_page

        device, size, steps = asked["device"], asked["size"], asked["steps"]
        print(real_page.report(real.run(device, size, steps, minutes), device, size, steps, command))
    elif what == "paper":
        from . import paper, paper_page

        print(paper_page.report(paper.run(), command))
    elif what == "load":
        from . import load

        print(load.report(*load.run(asked["rounds"]), command))
    elif what == "workers":
        from . import growth, overhead, workers_page

        print(workers_page.report(overhead.run(asked["rounds"]), growth.run(prompts), command))
    elif what == "profile":
        from . import profile, profile_page

        print(profile_page.report(*profile.run(**asked), **asked, command=command))
    else:
        from . import loop

        print(loop.report(loop.run(**asked), **asked, command=command))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    made.add_argument(
        "what", nargs="?", default="loop",
        choices=["loop", "profile", "curves", "sparse", "scale", "real", "load", "workers", "paper"],
        help="loop: what is around the transformer calls; profile: where a step's time goes; curves: what step caches save and "
        "change; sparse: what sparse attention changes and saves; scale: one rank against two, and a plan for many GPUs; real: "
        "a step at a real size, in the time that is given; load: what the pack adds to ComfyUI's start; workers: what "
        "asking them costs, and what many prompts leave behind; paper: what one GPU would take, by counting",
    )  # fmt: skip
    made.add_argument("--clips", type=int, default=8, help="curves, sparse: prompts and seeds")
    made.add_argument("--prompts", type=int, default=50, help="workers: through one server")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--size", default="small", help="demo, small, medium, 1.3B-480p, 14B-480p or 14B-720p; random weights")
    made.add_argument("--minutes", type=float, default=8.0, help="real: what would end later does not begin")
    made.add_argument("--steps", type=int, default=10)
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    return made


if __name__ == "__main__":
    main()
