"""One dense generation, measured for MagCache: the ratio table of a model, in a folder where it is found by its weights."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..generate import seeded_noise
from ..step_cache import calibrate, plan_magcache, recommended
from ..wan.denoiser import WanExperts
from ..whole_file import whole_file
from .arguments import add_generation, add_model, condition, load_model, request_of, size_of
from .output import output_folder
from .progress import steps_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_generation(parser)
    group = parser.add_argument_group("calibration")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the table is written")


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> None:
    """Measures the model, and leaves its table in the output folder, named by the hash of the weights.

    Raises:
        FastVideoError: an argument is wrong, or the generation failed.
        OSError: the output folder cannot be written.
    """
    model = load_model(given)
    size, request = size_of(given, model), request_of(given, model, given.seed)
    with output_folder(given.output):
        conditioning, shape = condition(given, model, size), size.latent_shape(model.vae.channels)
        for sentence in model.generate(request, conditioning, size).contradictions():
            tell(sentence)
        places = model.device, model.offload_device
        experts = WanExperts(model.transformers, conditioning, shape, *places, schedule=request.plan())
        noise = seeded_noise(shape, request.seed, model.device)
        with steps_bar("calibrate", request.steps) as each_step:
            table = calibrate(request, experts, conditioning, noise, each_step)
        file = given.output / f"{table.name}.json"
        with whole_file(file) as part:
            part.write_text(table.json(), encoding="utf-8")
    settings = recommended(table)
    tell(f"{table.steps} steps measured: {file}")
    tell(f"With it MagCache at threshold {settings.threshold:g} and at most {settings.max_skips} skips in a row would do:")
    tell(plan_magcache(request.plan(), table, settings, joint=True).text())
