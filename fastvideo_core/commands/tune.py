"""The step cache's settings that save most and keep a wanted likeness: a few generations, halving the range each time."""

import argparse
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ..ab import Measured, against, measure
from ..conditioning import Conditioning
from ..pictures import plot, save_png
from ..quality import FrameQuality
from ..request import SamplingRequest, VideoSize
from ..speed import speed_up_of_all
from ..step_cache import DBCacheSettings, with_dbcache, with_magcache
from ..tune import LADDERS, Attempt, CacheSettings, TunedCache, blocks_cut, check_tunable, check_wanted, settings_text, tune
from ..wan.model import WanModel
from ..whole_file import whole_file
from .arguments import add_generation, add_model, condition, load_model, request_of, size_of
from .output import output_folder
from .progress import steps_bar

if TYPE_CHECKING:
    from ..wan.generation import NewCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_generation(parser)
    group = parser.add_argument_group("tuning")
    group.add_argument("--ssim", type=float, default=0.95, help="mean over the frames, against dense (default: 0.95)")
    group.add_argument("--cache", choices=get_args(TunedCache), default="magcache", help="(default: magcache)")
    group.add_argument("--seed", type=int, nargs="+", default=[0], metavar="SEED", help="their mean counts (default: 0)")
    group.add_argument(
        "--tables", type=Path, action="append", default=[], metavar="FOLDER", help="with ratio tables that `calibrate` wrote"
    )
    group.add_argument("--output", type=Path, default=Path("output/tune"), metavar="FOLDER", help="(default: output/tune)")


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> None:
    """Tells what it found, and leaves tuning.json and tuning.png in the output folder.

    Raises:
        FastVideoError: an argument is wrong, a generation failed, or no setting reaches the likeness.
        OSError: the output folder cannot be written.
    """
    check_wanted(given.cache, given.ssim)
    model = load_model(given)
    size = size_of(given, model)
    requests = [request_of(given, model, seed) for seed in dict.fromkeys(given.seed)]
    with output_folder(given.output):
        trial = Trial(model, size, condition(given, model, size), requests, given.tables)
        trial.check(LADDERS[given.cache][0], tell)
        found = tune(given.cache, given.ssim, trial.telling(tell))
        with whole_file(given.output / "tuning.json") as part:
            part.write_text(found.json(), encoding="utf-8")
        save_png(plot([found.panel()]), given.output / "tuning.png")
        tell(f"\n{found.text()}\n\nAll figures: {given.output}")


class Trial:
    """The dense generations, and what is measured against them."""

    def __init__(
        self, model: WanModel, size: VideoSize, told: Conditioning, requests: Sequence[SamplingRequest], tables: Sequence[Path]
    ) -> None:
        self.model, self.size, self.told, self.requests, self.tables = model, size, told, requests, tables

    @cached_property
    def _dense(self) -> list[Measured]:
        return [self._measured(request, "dense") for request in self.requests]

    def check(self, settings: CacheSettings, tell: Callable[[str], None]) -> None:
        """Tells what contradicts the model's recipe, before anything runs.

        Raises:
            RequestError: these settings cannot run, or the cache stands aside.
        """
        generations = [self.model.generate(request, self.told, self.size, self._cache(settings)) for request in self.requests]
        for sentence in generations[0].contradictions():
            tell(sentence)
        (cache,) = generations[0].report().caches
        check_tunable(cache.name, cache.aside)

    def telling(self, tell: Callable[[str], None]) -> Callable[[CacheSettings], Attempt]:
        """`attempt`, with a line for people after each."""

        def attempt(settings: CacheSettings) -> Attempt:
            tried = self.attempt(settings)
            tell(tried.line())
            return tried

        return attempt

    def attempt(self, settings: CacheSettings) -> Attempt:
        cache = self._cache(settings)
        runs = [self._measured(request, settings_text(settings), cache) for request in self.requests]
        means = [against(*pair).mean for pair in zip(self._dense, runs, strict=True)]
        count = len(runs)
        return Attempt(
            settings=settings,
            quality=FrameQuality(psnr=sum(mean.psnr for mean in means) / count, ssim=sum(mean.ssim for mean in means) / count),
            cut=sum(blocks_cut(run.report) for run in runs) / count,
            speed=speed_up_of_all([run.report for run in self._dense], [run.report for run in runs]),
            seconds=sum(run.seconds for run in runs) / count,
        )

    def _cache(self, settings: CacheSettings) -> "NewCache":
        return with_dbcache(settings) if isinstance(settings, DBCacheSettings) else with_magcache(settings, self.tables)

    def _measured(self, request: SamplingRequest, name: str, cache: "NewCache | None" = None) -> Measured:
        with steps_bar(f"seed {request.seed}, {name}", request.steps) as each_step:
            return measure(self.model, self.told, self.size, request, cache, each_step=each_step)
