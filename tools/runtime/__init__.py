"""The pinned ComfyUI and the virtual environment that it and the pack's tests run in.

    python3.11 -m tools.runtime setup        create what is missing (nothing to do: well under a second)
    python3.11 -m tools.runtime run ARGS     the same, then run the environment's Python with ARGS
    python3.11 -m tools.runtime clean        remove everything that setup made
    python3.11 -m tools.runtime lock         make the locks of this Python and platform

Everything here is standard library: it has to run before anything is installed.
"""
