"""Two servers on one machine, with one output folder and one demo model, at the same time: each makes what it makes alone, and no
file of one is overwritten by the other."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tools.comfy_server import ComfyServer

from .case import Case, Place
from .disk import batch, is_whole
from .interrupts import seeded
from .mutations import Prompt
from .servers import demo_server, equal
from .shipped import with_latents

COUNT = 20
"""Of prompts to each."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    output = place.base / "output"
    a, b = (demo_server(place.tree, place.base / name, output=output) for name in ("a", "b"))
    with a, b:
        yield from on(a, b, numbers)


def on(a: ComfyServer, b: ComfyServer, numbers: Sequence[int]) -> Iterator[Case]:
    """A case is one prompt to both at once. FastVideo Batch saves both videos under one name, core the latents under two."""
    alone = {number: _made(a, _prompt(number, "alone"))[0] for number in numbers}
    taken: set[Path] = set()
    with ThreadPoolExecutor(2) as both:
        for number in numbers:
            answers = [both.submit(_made, server, _prompt(number, name)) for server, name in ((a, "a"), (b, "b"))]
            results = [future.result() for future in answers]
            videos = [video for _, files in results for video in files]
            faults = ["another video than alone"] * any(not equal(latents, alone[number]) for latents, _ in results)
            faults += ["a video of one is the other's"] * (len({*videos}) < len(videos) or bool(taken.intersection(videos)))
            faults += ["a torn video"] * (not all(map(is_whole, videos)))
            taken.update(videos)
            yield Case(number=number, what="one prompt to two servers", answer="both ran", fault=", ".join(faults))


def _prompt(number: int, name: str) -> Prompt:
    """name: of the latents, which core numbers as two servers cannot: it looks for a free name and takes it later."""
    prompt = seeded(with_latents(batch()), number + 1)
    for entry in prompt.values():
        if entry["class_type"] == "SaveLatent":
            entry["inputs"]["filename_prefix"] = f"latents/{name}"
    return prompt


def _made(server: ComfyServer, prompt: Prompt) -> tuple[list[Tensor], list[Path]]:
    """Its latents and its videos."""
    identity = server.post(prompt)
    server.wait(identity)
    files = server.files(identity)
    latents = [load_file(file)["latent_tensor"] for file in files if file.suffix == ".latent"]
    return latents, [file for file in files if file.suffix == ".mp4"]
