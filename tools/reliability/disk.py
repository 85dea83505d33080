"""A disk that is full while something is saved: the error says so, nothing torn is left under a whole file's name, and with room
again all is as before."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import av
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from .answers import OURS, answer
from .case import Case, Place
from .interrupts import seeded
from .mutations import Prompt
from .servers import CLASSIC, equal, made
from .shipped import node, phases, place_inputs, plain
from .small_disk import SmallDisk

COUNT = 36
FULL = "No space left on device"
SIZE = {"width": 64, "height": 64, "length": 17}
SHARES = (0.0, 0.25, 0.5, 0.9)
"""Of what is to be saved, for which there is room."""


def _decoded() -> Prompt:
    return {**plain(), "frames": node("VAEDecode", samples=["sampler", 0], vae=["demo", 3])}


def _video() -> Prompt:
    video = node("CreateVideo", images=["frames", 0], fps=16.0)
    saved = node("SaveVideo", video=["video", 0], filename_prefix="video", format="auto", codec="auto")
    return _without({**_decoded(), "video": video, "file": saved}, "saved", "report")


def _images() -> Prompt:
    return _without({**_decoded(), "file": node("SaveImage", images=["frames", 0], filename_prefix="image")}, "saved", "report")


def batch() -> Prompt:
    """FastVideo Batch, node "batch", with one video."""
    phase = node("FastVideoPhase", model=["demo", 0], until=0.0, guidance_scale=3.0)
    settings = {"steps": 4, "shift": 5.0, "solver": "euler", "guidance_mode": "auto", "gate": 1.0, "guidance_rescale": 0.0}
    size = {**SIZE, "fps": 16.0}
    links = {"phases": ["phase", 0], "clip": ["demo", 2], "vae": ["demo", 3]}
    told = {"prompts": "a red circle", "negative": "", "seeds": "0", "filename_prefix": "batch"}
    return {"demo": plain()["demo"], "phase": phase, "batch": node("FastVideoBatch", **links, **told, **size, **settings)}


def _without(prompt: Prompt, *names: str) -> Prompt:
    """And large enough for files of some pages."""
    kept = {name: entry for name, entry in prompt.items() if name not in names}
    return kept | {"empty": node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1)}


def _state() -> Prompt:
    prompt = _without(phases(save_state="full"), "saved", "report")
    return {**prompt, "shown": node("PreviewAny", source=["sampler", 0])}


def _calibrated() -> Prompt:
    prompt = _without(plain(), "saved", "report")
    names = ("seed", "steps", "shift", "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode")
    given = prompt.pop("sampler")["inputs"]
    links = ("model", "positive", "negative", "latent")
    return {**prompt, "calibrated": node("FastVideoCalibrateMagCache", **{name: given[name] for name in names + links})}


SAVERS: Mapping[str, Callable[[], Prompt]] = {
    "FastVideoBatch": batch, "FastVideoPhaseSampler": _state, "FastVideoCalibrateMagCache": _calibrated,
    "FastVideoRunReport": lambda: _without(plain(), "saved"), "SaveLatent": lambda: _without(plain(), "report"),
    "SaveVideo": _video, "SaveImage": _images,
}  # fmt: skip
"""By the node that saves."""


def run(place: Place, numbers: Sequence[int]) -> Iterator[Case]:
    server = SmallDisk(place.tree, place.base, arguments=CLASSIC)
    place_inputs(server)
    with server:
        before = made(server, plain())
        for number in numbers:
            name = list(SAVERS)[number % len(SAVERS)]
            case = _case(server, name, number, place.chance("disk", number).randrange(1, 2**31))
            if number == numbers[-1] and not equal(made(server, plain()), before):
                case = replace(case, fault=case.fault or "the next plain prompt gives another video")
            yield case


def _case(server: SmallDisk, name: str, number: int, seed: int) -> Case:
    """With room for a part of what the saver saves, then with room for all."""
    for file in server.saved():
        file.unlink()
    size = _size(server, SAVERS[name]())
    share = SHARES[number // len(SAVERS) % len(SHARES)]
    before = server.saved()
    server.fill(int(share * size))
    given = answer(server, seeded(SAVERS[name](), seed))
    torn = [file for file in server.saved() - before if not is_whole(file)]
    server.empty()
    words, fault = given.words, given.broken
    if torn:
        words += f"; torn files: {', '.join(file.name for file in torn)}"
    if name.startswith(OURS):
        fault = fault or ("a torn file is left" if torn else "")
    if FULL not in given.words:
        fault = fault or "nothing says that the disk is full"
    if (again := answer(server, seeded(SAVERS[name](), seed + 1))).kind != "ran":
        fault = f"with room again: {again.kind}: {again.words}"
    kind = f"{given.kind}, torn file left" if torn else given.kind
    return Case(number=number, what=f"{name}: room for {share:.0%} of {size} bytes", answer=kind, words=words, fault=fault)


def _size(server: SmallDisk, prompt: Prompt) -> int:
    """Of what a whole run saves, previews too."""
    before = server.used()
    server.wait(server.post(prompt))
    return server.used() - before


def is_whole(file: Path) -> bool:
    """As its ending says; a part that somebody left never is."""
    try:
        READERS[file.suffix](file)
    except (OSError, ValueError, KeyError, SafetensorError):  # libav's and PIL's errors are of these
        return False
    return True


def _frames(file: Path) -> None:
    with av.open(str(file)) as container:
        if len(list(container.decode(video=0))) != SIZE["length"]:
            raise ValueError(file)


READERS: Mapping[str, Callable[[Path], object]] = {
    ".mp4": _frames, ".latent": load_file, ".safetensors": load_file, ".png": lambda file: Image.open(file).load(),
    ".json": lambda file: json.loads(file.read_text("utf-8")),
}  # fmt: skip
