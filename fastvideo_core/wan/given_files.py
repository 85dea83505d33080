"""What a person names to load a model: files, dtypes and devices, looked at before anything is read."""

from pathlib import Path

import torch

from ..errors import RequestError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICE = "give a device of torch, such as cpu, cuda or cuda:1."


def path_of(name: str, value: object) -> Path:
    """Raises RequestError where it is no path."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise RequestError(f"{name} is {value!r:.80}: give the path of a file or folder.")
    return Path(value)


def check_paths(**values: object) -> None:
    """Raises RequestError where one is no path."""
    for name, value in values.items():
        path_of(name, value)


def check_optional(**values: object) -> None:
    """Raises RequestError where one is neither None nor a path."""
    check_paths(**{name: value for name, value in values.items() if value is not None})


def check_dtypes(**values: object) -> None:
    """Raises RequestError where one is neither None nor a dtype to compute in."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, torch.dtype) or value not in DTYPES):
            raise RequestError(
                f"{name} is {value!r:.80}: give torch.bfloat16, torch.float16 or torch.float32, or None for what is stored "
                "(files in 8 bits are read into those)."
            )


def device_of(name: str, value: object) -> torch.device:
    """Raises RequestError where torch knows no such device, or sees none here."""
    if not isinstance(value, str | torch.device):
        raise RequestError(f"{name} is {value!r:.80}: {DEVICE}")
    try:
        device = torch.device(value)
    except RuntimeError as error:
        raise RequestError(f"{name} is {value!r:.80}: {DEVICE}") from error
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= here.get(device.type, 1 + (device.index or 0)):
        raise RequestError(f"{name} is {value!s:.80}, and there is no such device here that torch can use.")
    return device
