"""The prompts of a command: one, or a file of them, each with all settings that a generation needs."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LoadError, RequestError
from ..json_object import made_of

IMAGES = ("image", "last_image")
SETTINGS = (
    "prompt", "negative", "seed", "width", "height", "frames", "steps", "shift", "guidance_scale", "low_noise_guidance_scale",
    "boundary", "solver", "guidance_mode", "image_motion", *IMAGES,
)  # fmt: skip
"""Of an object in a file, named as the arguments are."""


def read_prompts(given: argparse.Namespace) -> Sequence[argparse.Namespace]:
    """Arguments for each generation: those of its object in the file, otherwise those of the command.

    Raises:
        LoadError: the file is no list of prompts. RequestError: it is empty, or an object sets what there is not.
    """
    if given.prompts is None:
        return [given]
    try:
        text = given.prompts.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise LoadError(f"The prompts cannot be read from {given.prompts}: {error}.") from error
    if given.prompts.suffix.lower() == ".json":
        rows = made_of(f"{given.prompts} is no JSON", lambda: json.loads(text))
        entries = _objects(rows, given.prompts)
    else:
        entries = [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
    if not entries:
        raise RequestError(f"{given.prompts} holds no prompt: write one per line, or a JSON list of objects.")
    return [argparse.Namespace(**(vars(given) | entry)) for entry in entries]


def _objects(rows: object, file: Path) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise LoadError(f'{file} is no list: write [{{"prompt": "..."}}, ...].')
    return [_settings(row, f"Object {number} of {file}", file.parent) for number, row in enumerate(rows, start=1)]


def _settings(row: object, what: str, folder: Path) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), str):
        raise RequestError(f'{what} has no prompt: write {{"prompt": "...", ...}}.')
    unknown = [name for name in row if name not in SETTINGS]
    if unknown:
        raise RequestError(f"{what} sets {unknown[0]!r:.80}, which there is not. It may set any of: {', '.join(SETTINGS)}.")
    settings = {name: value for name, value in row.items() if value is not None}
    for name in IMAGES:
        if name in settings and not isinstance(settings[name], str):
            raise RequestError(f"{what}: {name} is {settings[name]!r:.80}, and must be the path of a file.")
    return settings | {name: folder / settings[name] for name in IMAGES if name in settings}
