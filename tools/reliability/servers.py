"""Servers that are hurt, looked at, and started anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from tools.comfy_server import ComfyServer

from .shipped import latents, place_inputs, place_templates

CLASSIC = ("--cache-classic",)
"""What a prompt does not use again is forgotten after it, so that the next one of the same seed is computed anew."""


def demo_server(tree: Path, base: Path, **more: Any) -> ComfyServer:
    """With what the demos read."""
    server = ComfyServer(tree, base, arguments=CLASSIC, **more)
    place_inputs(server)
    return server


def template_server(tree: Path, base: Path) -> ComfyServer:
    """With what all shipped prompts read."""
    server = demo_server(tree, base)
    place_templates(server)
    return server


def made(server: ComfyServer, prompt: Mapping[str, Any]) -> list[torch.Tensor]:
    """The latents of a prompt that runs."""
    identity = server.post(prompt)
    server.wait(identity)
    return [load_file(file)["latent_tensor"] for file in latents(server, identity)]


def equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Not of nothing."""
    return len(a) > 0 and len(a) == len(b) and all(map(torch.equal, a, b))


def process(server: ComfyServer) -> psutil.Process:
    (found,) = (child for child in psutil.Process().children() if str(server.port) in child.cmdline())
    return found


def kill(server: ComfyServer) -> None:
    """At once, as where the machine is short of memory."""
    killed = process(server)
    killed.kill()
    killed.wait()
    server.stop()


@dataclass(frozen=True)
class Held:
    """By the server's own process. memory: bytes, resident."""

    memory: int
    threads: int
    handles: int


def held(server: ComfyServer) -> Held:
    found = process(server)
    return Held(found.memory_info().rss, found.num_threads(), found.num_fds())
