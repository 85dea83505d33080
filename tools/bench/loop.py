"""What the loop itself costs: one generation with neutral settings through every way there is, against the bare calls."""

import os
import tempfile
from pathlib import Path

import torch

from .comfyui import comfyui_contenders
from .contenders import Task, engine_contenders
from .measure import Result, measure
from .page import machine_facts, markdown_table, to_the_faster, update_page, write_json
from .sizes import SIZES, write_weights


def run(device: str, size: str, steps: int, rounds: int) -> list[Result]:
    tree = os.environ.get("COMFYUI_PATH")
    if not tree:
        raise SystemExit("The samplers of ComfyUI are measured too: use `make bench`, or set COMFYUI_PATH to a ComfyUI folder.")
    task = Task(SIZES[size], steps, torch.device(device))
    with tempfile.TemporaryDirectory() as folder:
        file = write_weights(task.size, Path(folder))
        contenders = engine_contenders(task, file)
        contenders += comfyui_contenders(task, file, Path(tree).resolve(), Path(folder) / "comfyui")
        return measure(contenders, rounds, task.device)


def report(results: list[Result], device: str, size: str, steps: int, rounds: int, command: str) -> str:
    """Writes page and JSON; returns the text for the terminal."""
    facts = f"{SIZES[size]}; {steps} Euler steps with guidance, {rounds} interleaved rounds"
    machine = machine_facts(device)
    text = f"{markdown_table(results, steps, facts, command, machine)}\n\n{to_the_faster(results)}"
    update_page(f"loop {device} {size}", text)
    write_json(f"loop-{device}-{size}", results, facts, command, machine)
    return text
