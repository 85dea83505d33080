"""Arguments that the commands share: which model, what it is told, how it samples."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch

from ..conditioning import Conditioning
from ..errors import RequestError
from ..guidance import GuidanceMode, GuidanceSettings
from ..image_file import read_image
from ..request import SamplingRequest, VideoSize
from ..solvers import SolverName
from ..wan.demo import DemoKind, load_demo
from ..wan.model import WanModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists all arguments)\n")


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model: one of --demo, --model, or --transformer with --vae and --text-encoder")
    group.add_argument("--demo", choices=get_args(DemoKind), help="the tiny Wan that ships with the pack")
    group.add_argument("--model", type=Path, metavar="FOLDER", help="a diffusers repository on disk")
    group.add_argument("--transformer", type=Path, metavar="FILE", help="single file or folder; the high-noise expert of two")
    group.add_argument("--low-noise-transformer", type=Path, metavar="FILE")
    group.add_argument("--vae", type=Path, metavar="FILE")
    group.add_argument("--text-encoder", type=Path, metavar="FILE")
    group.add_argument("--image-encoder", type=Path, metavar="FILE", help="for Wan 2.1 I2V and FLF2V")
    group.add_argument("--tokenizer", type=Path, metavar="FILE", help="where the text encoder's file carries none")
    group.add_argument("--dtype", choices=DTYPES, help="of the networks (default: as stored; the demo in float32)")
    group.add_argument("--vae-dtype", choices=DTYPES, help="(default: as stored; half precision is slow on a CPU)")
    group.add_argument("--device", type=_device, default="cpu", help="cpu (default), cuda, cuda:1, mps")


def load_model(given: argparse.Namespace) -> WanModel:
    """Raises:
    RequestError: none or several models were named. LoadError: it cannot be loaded.
    """
    files = {name: getattr(given, name) for name in (
        "transformer", "low_noise_transformer", "vae", "text_encoder", "image_encoder", "tokenizer",
    )}  # fmt: skip
    ways = [given.demo is not None, given.model is not None, any(files.values())]
    if sum(ways) != 1:
        raise RequestError("Name one model: --demo t2v, or --model FOLDER, or --transformer, --vae and --text-encoder FILEs.")
    dtype = DTYPES.get(given.dtype)
    if given.demo is not None:
        _refuse(given, ("dtype", "vae_dtype"), "the demo model runs in float32")
        return load_demo(given.demo, given.device)
    if given.model is not None:
        _refuse(given, ("vae_dtype",), "the VAE of a repository stays as stored")
        return WanModel.load(given.model, dtype, given.device)
    missing = [f"--{name.replace('_', '-')}" for name in ("transformer", "vae", "text_encoder") if files[name] is None]
    if missing:
        raise RequestError(f"Single files need --transformer, --vae and --text-encoder; missing: {', '.join(missing)}.")
    return WanModel.from_files(**files, dtype=dtype, vae_dtype=DTYPES.get(given.vae_dtype), device=given.device)


def add_generation(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """many: prompts may come from a file."""
    group = parser.add_argument_group("generation: what is left out is as the model's authors sample it")
    prompt = group.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt")
    if many:
        prompt.add_argument(
            "--prompts", type=Path, metavar="FILE",
            help="a prompt per line; or FILE.json, a list of objects with prompt and any of these settings: "
            '[{"prompt": "a fox", "seed": 3, "image": "fox.png"}, ...]; what they leave out is as given here',
        )  # fmt: skip
    group.add_argument("--negative", default="", help="the negative prompt (default: empty)")
    group.add_argument("--image", type=Path, metavar="FILE", help="first frame: scaled to cover the video, centre kept")
    group.add_argument("--last-image", type=Path, metavar="FILE")
    group.add_argument(
        "--image-motion", type=float, default=1.0, metavar="AMPLITUDE",
        help="more motion away from the first image, 1 (default, none) to 2, usually 1.15: for few-step runs that came out slow",
    )  # fmt: skip
    for name in ("width", "height", "frames", "steps"):
        group.add_argument(f"--{name}", type=int)
    for name in ("shift", "guidance-scale", "low-noise-guidance-scale", "boundary"):
        group.add_argument(f"--{name}", type=float)
    group.add_argument("--solver", choices=get_args(SolverName), default="unipc")
    group.add_argument("--guidance-mode", choices=get_args(GuidanceMode), default="auto")


def size_of(given: argparse.Namespace, model: WanModel) -> VideoSize:
    """Raises RequestError where it is off the grid, or neither given nor known."""
    width, height, frames = (_setting(given, model, name) for name in ("width", "height", "frames"))
    return model.video_size(width=width, height=height, frames=frames)


def request_of(given: argparse.Namespace, model: WanModel, seed: int) -> SamplingRequest:
    """Raises RequestError where it contradicts itself, or leaves open what the model does not tell."""
    boundary = given.boundary if given.boundary is not None else model.boundary
    low_noise = given.low_noise_guidance_scale
    if low_noise is None and boundary is not None and given.guidance_scale is None and model.variant is not None:
        low_noise = model.variant.low_noise_guidance_scale
    return SamplingRequest(
        steps=_setting(given, model, "steps"),
        shift=_setting(given, model, "shift"),
        guidance_scale=_setting(given, model, "guidance_scale"),
        low_noise_guidance_scale=low_noise,
        boundary=boundary,
        solver=given.solver,
        seed=seed,
        guidance=GuidanceSettings(mode=given.guidance_mode),
    )


def condition(given: argparse.Namespace, model: WanModel, size: VideoSize) -> Conditioning:
    """Prompts and images, encoded.

    Raises:
        ConditioningError, LoadError: as `WanModel.condition`, and an image that cannot be read.
    """
    first, last = (None if path is None else _image(path, size) for path in (given.image, given.last_image))
    return model.condition(given.prompt, given.negative, size, first, last, given.image_motion)


def fps_of(model: WanModel) -> int:
    """16, Wan's own, where the model does not tell."""
    return 16 if model.variant is None else model.variant.fps


def _setting(given: argparse.Namespace, model: WanModel, name: str) -> Any:
    value = getattr(given, name)
    if value is None and model.variant is None:
        raise RequestError(
            f"The model ({model.title}) does not tell its {name.replace('_', ' ')}: give --{name.replace('_', '-')}."
        )
    return getattr(model.variant, name) if value is None else value


def _refuse(given: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(given, name) is not None:
            raise RequestError(f"--{name.replace('_', '-')} was given and {why}: leave it out.")


def _device(text: str) -> torch.device:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device: use cpu, cuda, cuda:<number> or mps")
    device = torch.device(text)
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[device.type]
    if (device.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"there is no {text} here that torch can use")
    return device


def _image(path: Path, size: VideoSize) -> torch.Tensor:
    """(1, 3, height, width) in 0..1. Raises LoadError as `read_image`."""
    import numpy
    from PIL import Image, ImageOps

    image = ImageOps.fit(read_image(path), (size.width, size.height), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
