"""The same prompt and seeds, dense and accelerated: time, memory, what was skipped, and how far the videos are apart."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ab import Measured, against, measure, timed
from ..conditioning import Conditioning
from ..pictures import frame_panels, plot, run_picture, save_png, side_by_side
from ..quality import Comparison
from ..report import RunReport
from ..request import SamplingRequest, VideoSize
from ..speed import Speed, speed_up_of_all
from ..video_file import save_mp4
from ..wan.model import WanModel
from ..whole_file import whole_file
from .arguments import add_generation, add_model, condition, fps_of, load_model, request_of, size_of
from .cases import Case, file_names, read_case
from .output import output_folder
from .progress import steps_bar
from .table import Row, markdown

DENSE = "dense"
PACE_STEPS = 5
"""Of the dense generation, run again after each case: they tell how much the machine's pace has changed meanwhile."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_generation(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument("--seed", type=int, nargs="+", default=[0], metavar="SEED", help="one generation each (default: 0)")
    group.add_argument(
        "--case", action="append", required=True, metavar="SETTINGS",
        help='what an accelerated generation does differently: "magcache", "magcache threshold=0.2 max_skips=3", "dbcache '
        'performance", "cache-dit", "vsa sparsity=0.8 dense_steps=4", "self_attention=sageattention_2", "gate=0.5", "steps=10 '
        'solver=euler"; may be given several times',
    )  # fmt: skip
    group.add_argument(
        "--tables", type=Path, action="append", default=[], metavar="FOLDER", help="with ratio tables that `calibrate` wrote"
    )
    group.add_argument("--lpips", action="store_true", help="measure LPIPS too (needs the package lpips)")
    group.add_argument("--output", type=Path, default=Path("output/compare"), metavar="FOLDER", help="(default: output/compare)")


@dataclass(frozen=True)
class Pair:
    """One accelerated generation and the dense one of the same seed. pace: the dense one's first steps, once more."""

    case: Case
    seed: int
    dense: Measured
    accelerated: Measured
    pace: RunReport
    quality: Comparison


@dataclass(frozen=True)
class Task:
    model: WanModel
    conditioning: Conditioning
    size: VideoSize
    requests: Sequence[SamplingRequest]
    text_seconds: float


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> None:
    """Measures all cases, tells the table, and leaves in the output folder: comparison.json; plot.png, with the metrics over the
    frames; report.png, with the steps of each run; the videos, each by itself and those of a seed side by side.

    Raises:
        FastVideoError: an argument is wrong, or a generation failed.
        OSError: the output folder cannot be written.
    """
    cases = [read_case(text, given.tables) for text in given.case]
    task = _task(given, cases, tell)
    with output_folder(given.output):
        pairs = _pairs(task, cases, given, tell)
        file = given.output / "comparison.json"
        with whole_file(file) as part:
            part.write_text(json.dumps(_data(task, given, pairs), indent=1), encoding="utf-8")
        _save_pictures(task, given.output, pairs)
    tell("")
    tell(markdown(_rows(cases, pairs, task.text_seconds)))
    tell(f"\nVideos, pictures and figures: {file.parent}")


def _pairs(task: Task, cases: Sequence[Case], given: argparse.Namespace, tell: Callable[[str], None]) -> list[Pair]:
    """All generations, each told and saved when it is done."""
    pairs = []
    _warm_up(task)
    for request in task.requests:
        dense = _measured(task, request, None)
        tell(f"seed {request.seed}, {DENSE}: {dense.seconds:.2f} s")
        _save(dense.frames, given.output / f"seed{request.seed}_{DENSE}.mp4", task.model)
        for case, name in zip(cases, file_names(cases), strict=True):
            fast = _measured(task, request, case)
            tell(f"seed {request.seed}, {case.text}: {fast.seconds:.2f} s")
            _save(fast.frames, given.output / f"seed{request.seed}_{name}.mp4", task.model)
            quality = against(dense, fast, perceptual=given.lpips)
            pairs.append(Pair(case, request.seed, dense, fast, _pace(task, request), quality))
    return pairs


def _save_pictures(task: Task, folder: Path, pairs: Sequence[Pair]) -> None:
    panels, reports = [], []
    for request in task.requests:
        own = [pair for pair in pairs if pair.seed == request.seed]
        runs = {DENSE: own[0].dense, **{pair.case.text: pair.accelerated for pair in own}}
        panels += frame_panels({pair.case.text: pair.quality for pair in own}, f"seed {request.seed}")
        reports += [run_picture(run.report, f"seed {request.seed}, {name}") for name, run in runs.items()]
        videos = {f"{name}, {run.seconds:.2f} s": run.frames for name, run in runs.items()}
        _save(side_by_side(videos), folder / f"seed{request.seed}_side_by_side.mp4", task.model)
    save_png(plot(panels), folder / "plot.png")
    save_png(torch.cat(reports), folder / "report.png")


def _task(given: argparse.Namespace, cases: Sequence[Case], tell: Callable[[str], None]) -> Task:
    model = load_model(given)
    size = size_of(given, model)
    requests = [request_of(given, model, seed) for seed in dict.fromkeys(given.seed)]
    for case in cases:
        case.changed(requests[0]).plan()
    started = time.perf_counter()
    conditioning = condition(given, model, size)
    task = Task(model, conditioning, size, requests, time.perf_counter() - started)
    for case in cases:  # what cannot run, and what does not fit the model, is told before anything runs
        asked = case.changed(requests[0])
        generation = model.generate(asked, conditioning, size, case.cache, case.attention, case.sparse)
        for sentence in generation.contradictions():
            tell(f"{case.text}: {sentence}")
    return task


def _warm_up(task: Task) -> None:
    """One step and one decoding, so that what a process does once is not counted to the dense generation."""
    generation = task.model.generate(task.requests[0], task.conditioning, task.size)
    timed(generation, 1)
    task.model.decode(generation.latents.cpu())


def _pace(task: Task, request: SamplingRequest) -> RunReport:
    report, _ = timed(task.model.generate(request, task.conditioning, task.size), PACE_STEPS)
    return report


def _measured(task: Task, request: SamplingRequest, case: Case | None) -> Measured:
    name, asked = (DENSE, request) if case is None else (case.text, case.changed(request))
    with steps_bar(f"seed {request.seed}, {name}", asked.steps) as each_step:
        if case is None:
            return measure(task.model, task.conditioning, task.size, asked, each_step=each_step)
        return measure(
            task.model, task.conditioning, task.size, asked, case.cache, case.attention, case.sparse, each_step=each_step
        )


def _save(frames: Tensor, path: Path, model: WanModel) -> None:
    save_mp4(frames, path, fps_of(model))


def _rows(cases: Sequence[Case], pairs: Sequence[Pair], text_seconds: float) -> list[Row]:
    """The dense row, and one for each case; figures are means over the seeds, the worst over all frames of all seeds."""
    first = [pair for pair in pairs if pair.case is cases[0]]
    rows = [Row.of(DENSE, [pair.dense for pair in first], [], text_seconds)]
    for case in cases:
        own = [pair for pair in pairs if pair.case is case]
        runs, quality = [pair.accelerated for pair in own], [pair.quality for pair in own]
        rows.append(Row.of(case.text, runs, quality, text_seconds, _speed(own)))
    return rows


def _speed(pairs: Sequence[Pair]) -> Speed:
    """Of one case, over its seeds."""
    dense, fast = [pair.dense.report for pair in pairs], [pair.accelerated.report for pair in pairs]
    return speed_up_of_all(dense, fast, [pair.pace for pair in pairs])


def _data(task: Task, given: argparse.Namespace, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "prompt": given.prompt,
        "negative": given.negative,
        "size": asdict(task.size),
        "text_seconds": task.text_seconds,
        "pairs": [
            {
                "case": pair.case.text,
                "seed": pair.seed,
                "dense": _run(pair.dense),
                "accelerated": _run(pair.accelerated),
                **_speed([pair]).figures(),
                "quality": json.loads(pair.quality.json()),
            }
            for pair in pairs
        ],
    }


def _run(measured: Measured) -> dict[str, Any]:
    return {
        "seconds": measured.seconds,
        "decode_seconds": measured.decode_seconds,
        "report": json.loads(measured.report.json()),
    }
