"""Safetensors files as tables of tensors that are read one at a time: names, shapes and dtypes come from the header alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import LoadError
from ...json_object import read_json_file

_SUFFIXES = (".safetensors", ".sft")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_CONTENTS = (  # first bytes of what people find under a name that ends with .safetensors
    (b"GGUF", "It is a GGUF file."),
    (b"PK\x03\x04", "It is a PyTorch pickle (zip), which can run code when read and is never opened here."),
    (b"\x80", "It is a Python pickle, which can run code when read and is never opened here."),
    (b"version https://git-lfs", "It is a Git LFS pointer: the weights themselves were not downloaded. Run `git lfs pull`."),
    (b"<", "It is a web page: the download was answered with an error or a login page."),
)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file. dtype is safetensors' name for it: F32, BF16, F16, F8_E4M3, ..."""

    file: Any
    key: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Tensor:
        """The tensor as stored. On the CPU it is mapped from the file, not copied."""
        tensor: Tensor = self.file.get_tensor(self.key)
        return tensor


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, or of all shards of one folder, and the metadata of the header."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the header of a safetensors file, or of the files in a diffusers model folder.

    Raises:
        LoadError: nothing is there, or it is not (whole) safetensors.
    """
    if path.is_dir():
        parts = [_open_file(file) for file in _folder_files(path)]
        tensors = {key: tensor for part in parts for key, tensor in part.tensors.items()}
        return Checkpoint(path, tensors, {key: text for part in parts for key, text in part.metadata.items()})
    return _open_file(path)


def _open_file(path: Path) -> Checkpoint:
    _check_name(path)
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        tensors = {key: _header_entry(file, key) for key in file.keys()}  # noqa: SIM118 - the handle is no mapping
    except SafetensorError as error:
        raise LoadError(f"{path} is not a whole safetensors file. {_content(path)} ({error})") from error
    return Checkpoint(path, tensors, file.metadata() or {})


def _header_entry(file: Any, key: str) -> StoredTensor:
    header = file.get_slice(key)
    return StoredTensor(file, key, tuple(header.get_shape()), header.get_dtype())


def _check_name(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise LoadError(
            f"{path} is a PyTorch pickle ({suffix}), which can run code when read and is never opened here. Use the "
            "model's .safetensors file, or convert it with a tool that you trust."
        )
    if suffix == ".gguf":
        raise LoadError(
            f"{path} is a GGUF file, which is not read here. Use the model's .safetensors file, or load it with a GGUF "
            "loader node of ComfyUI and sample that MODEL."
        )
    if not path.is_file():
        raise LoadError(f"{path} does not exist. Check the name, or download the file to that place.")
    if suffix not in _SUFFIXES:
        raise LoadError(f"{path} is no .safetensors file. Give a .safetensors file or a diffusers model folder.")


def _content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    is_torn = start[8:9] == b"{"  # its header's length may begin as one of the marks
    for mark, words in () if is_torn else _CONTENTS:
        if start.startswith(mark):
            return words
    return f"It is broken or cut off at {path.stat().st_size} bytes: download it again and compare its size."


def _folder_files(folder: Path) -> list[Path]:
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if len(indexes) == 1:
        return _shards(indexes[0])
    files = sorted(folder.glob("*.safetensors"))
    if not indexes and len(files) == 1:
        return files
    found = ", ".join(file.name for file in indexes + files) or "none"
    raise LoadError(
        f"{folder} must hold one .safetensors file, or one .safetensors.index.json with its shards; found: {found}. Give one "
        "file instead of the folder, or download what is missing."
    )


def _shards(index: Path) -> list[Path]:
    entries = read_json_file(index).get("weight_map")
    if not isinstance(entries, dict) or not all(isinstance(name, str) and Path(name).name == name for name in entries.values()):
        raise LoadError(f"{index} has no `weight_map` of file names beside it. Download the folder again.")
    files = [index.parent / name for name in sorted(set(entries.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LoadError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names. Download what is missing.")
    return files
