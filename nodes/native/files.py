"""Files in ComfyUI's model folders."""

import os
from pathlib import Path

import folder_paths

from fastvideo_core import LoadError, read_json_file


def transformer_folders() -> dict[str, Path]:
    """Diffusers Wan transformers under ComfyUI's diffusers folders, by their path below them."""
    found = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        for config in sorted(root.glob("**/config.json")):
            if _class_name(config) == "WanTransformer3DModel":
                found[config.parent.relative_to(root).as_posix()] = config.parent
    return found


def _class_name(config: Path) -> str:
    try:
        return str(read_json_file(config).get("_class_name"))
    except LoadError:
        return ""  # not a readable diffusers config, so not in the list


def model_file(folder: str, name: str) -> Path:
    """A file of that name inside ComfyUI's model folders, and nowhere else."""
    path = folder_paths.get_full_path(folder, name)
    roots = [os.path.abspath(root) for root in folder_paths.get_folder_paths(folder)]  # links inside them are the user's
    if path is None or not any(Path(os.path.abspath(path)).is_relative_to(root) for root in roots):
        raise LoadError(
            f"There is no {name!r} in ComfyUI's {folder} folders. Put the file there and press R to refresh the list."
        )
    return Path(path)
