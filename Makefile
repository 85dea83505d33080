# Everything here is a Python program; these are only its short names.
#
#   make help          this text; bare `make` prints it too
#   make setup         the virtual environment (.venv) and the pinned ComfyUI trees (.runtime); nothing to do the second time
#   make demo          a text-to-video and an image-to-video prompt through a headless ComfyUI; videos in output/
#   make test          lint, then every test
#   make test-compat   the node and server tests on each pinned ComfyUI: the oldest supported one, 0.26.0 and the newest
#   make test-gpu      what only a GPU can tell: its tests and benchmarks at real sizes, as output/gpu.json
#   make bench         the benchmarks; options in ARGS
#   make reliability   faults on purpose at headless servers: prompts, files, interrupts, kills, a full disk, load; parts in ARGS
#   make lint          ruff and mypy
#   make clean         remove .venv, .runtime and the tools' caches; output/ stays
#
# Variables
#   PYTHON   the Python to start from; there must be a lock for its version and platform in tools/locks (default: python3.11)
#   ARGS     more arguments for the program: for test and test-compat they go to pytest, as in make test ARGS="tests/core -x"; tests run
#            in two processes, with -n 0 in one
# From the environment
#   COMFYUI_PATH   the ComfyUI to demonstrate, test or measure on, in place of the pinned one
#   PIP_*          your pip's own configuration (index, certificates, cache) is used as it is

PYTHON ?= python3.11
ARGS ?=

RUN = $(PYTHON) -m tools.runtime run

.PHONY: help setup demo test test-compat test-gpu bench reliability lint clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

setup:
	@$(PYTHON) -m tools.runtime setup

demo:
	@$(RUN) -m tools.demo $(ARGS)

test:
	@$(RUN) -m tools.check test $(ARGS)

test-compat:
	@$(RUN) -m tools.check compat $(ARGS)

test-gpu:
	@$(RUN) -m tools.gpu $(ARGS)

bench:
	@$(RUN) -m tools.bench $(ARGS)

reliability:
	@$(RUN) -m tools.reliability $(ARGS)

lint:
	@$(RUN) -m tools.check lint

clean:
	@$(PYTHON) -m tools.runtime clean
