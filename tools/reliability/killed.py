"""A server that is killed in the middle of a run, and a new one on the same folders: the run goes on, bit by bit."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tools.comfy_client import PromptFailed
from tools.comfy_server import ComfyServer

from .answers import shown
from .case import Case, Place
from .mutations import Prompt
from .servers import demo_server, equal, kill
from .shipped import latents, shipped

COUNT = 10
STEPS = 40
STATES = "fastvideo_states"
"""The folder of ComfyUI's models."""
KINDS = {"three phases": "demo_phases", "two experts": "demo_two_experts", "a queue": "demo_queue"}
"""Whose sampler takes `save_state`; a queue finds its states itself."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    """The server of a case is the one that the case before it started."""
    server = demo_server(place.tree, place.base)
    try:
        server.start()
        whole = {kind: _whole(server, kind) for kind in KINDS}
        for number in numbers:
            kind = list(KINDS)[number % len(KINDS)]
            before, seconds = whole[kind]
            moment = place.chance("killed", number).uniform(0.1, 1) * seconds
            server.post(prompt_of(kind, save_state=f"case{number}"))
            time.sleep(moment)
            kill(server)
            server = demo_server(place.tree, place.base)
            server.start()
            yield _resumed(server, kind, number, before, {"after": moment, "of": seconds})
    finally:
        server.stop()


def prompt_of(kind: str, **state: str) -> Prompt:
    prompt = shipped(KINDS[kind])
    for entry in prompt.values():
        if "save_state" in entry["inputs"]:
            entry["inputs"] |= {"steps": STEPS, **{key: value for key, value in state.items() if key in entry["inputs"]}}
    return prompt


def _whole(server: ComfyServer, kind: str) -> tuple[list[Tensor], float]:
    started = time.monotonic()
    tensors, _ = _ran(server, prompt_of(kind))
    return tensors, time.monotonic() - started


def _resumed(server: ComfyServer, kind: str, number: int, before: list[Tensor], figures: dict[str, float]) -> Case:
    name = f"case{number}"
    left = [file.name for file in states(server, name)]
    resume = {"resume_state": f"{name}.safetensors"} if f"{name}.safetensors" in left else {}
    try:
        tensors, text = _ran(server, prompt_of(kind, save_state=name, **resume))
    except PromptFailed as failed:
        return Case(number=number, what=kind, answer="failed", words=str(failed), fault="it does not go on", figures=figures)
    steps = [int(step) for step in re.findall(r"resumed at step (\d+)", text)]
    answer = "went on from a state" if steps else "began anew, for no phase was over"
    fault = "" if equal(tensors, before) else "it gives another video"
    if left and not steps:
        fault = fault or f"{left} were there and were not used"
    figures |= {"step": max(steps, default=0)}
    return Case(number=number, what=kind, answer=answer, words=text, fault=fault, figures=figures)


def states(server: ComfyServer, name: str) -> list[Path]:
    """What a kept run of that name has left."""
    return sorted(server.model_folder(STATES).glob(f"{name}*.safetensors"))


def _ran(server: ComfyServer, prompt: Prompt) -> tuple[list[Tensor], str]:
    """Its latents, and the text of its reports."""
    identity = server.post(prompt)
    server.wait(identity)
    return [load_file(file)["latent_tensor"] for file in latents(server, identity)], shown(server, identity)
