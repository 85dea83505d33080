"""Where the files of a generation are, by what was asked: the same question has the same place."""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import LoadError
from ..request import SamplingRequest, VideoSize
from ..wan.identity import NetworkIdentity
from ..wan.model import WanModel

WORDS, DIGITS = 40, 10
"""Of a name: letters of the prompt, and of the digest of all that was asked."""


@dataclass(frozen=True)
class Place:
    """told: what was asked, as JSON."""

    folder: Path
    name: str
    told: Mapping[str, Any]

    @property
    def video(self) -> Path:
        return self.folder / f"{self.name}.mp4"

    @property
    def report(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def state(self) -> Path:
        return self.folder / f"{self.name}.state.safetensors"


def weights_of(model: WanModel) -> dict[str, Any]:
    """What tells the experts, with their LoRAs. Reads some values of each weight."""
    return {expert: NetworkIdentity.of(network).json() for expert, network in model.transformers.items()}


def place_of(
    folder: Path, entry: argparse.Namespace, size: VideoSize, request: SamplingRequest, weights: Mapping[str, Any]
) -> Place:
    """Of one generation. Raises LoadError where an image cannot be read."""
    told = {
        "prompt": entry.prompt,
        "negative": entry.negative,
        "images": [None if path is None else _digest(_read(path)) for path in (entry.image, entry.last_image)],
        "size": asdict(size),
        "request": asdict(request),
        **({} if entry.image_motion == 1 else {"image_motion": entry.image_motion}),  # files of before it keep their names
    }
    digest = _digest(json.dumps([told, weights], sort_keys=True).encode())
    words = re.sub("[^a-z0-9]+", "_", entry.prompt.lower())[:WORDS].strip("_")
    return Place(folder, f"{words or 'prompt'}_{digest[:DIGITS]}", told)


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise LoadError(f"The image {image} cannot be read: {error}.") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
