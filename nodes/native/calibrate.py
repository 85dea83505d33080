"""Measuring a MODEL's ratio table: one dense generation, and a file that FastVideo MagCache finds by the model's weights."""

from pathlib import Path
from typing import Any

import folder_paths

from fastvideo_core import Phase, RequestError, RunReport, SamplingRequest, whole_file
from fastvideo_core.step_cache import Calibration, PhaseRatios, RatioTable, plan_magcache, recommended

from .cache_run import Opened
from .generation import NativeGeneration
from .magcache import RATIOS

NEEDS = (
    "FastVideo Calibrate MagCache measures each branch as one prompt over the whole video, in every step. Connect one prompt to "
    "positive and one to negative, not combined ones and none with an area, a mask or a range of steps of its own, and remove "
    "context windows."
)


class NativeCalibration:
    """Measures one generation of one MODEL, as a cache that never skips."""

    name = "FastVideo Calibrate MagCache"

    def __init__(self) -> None:
        self.opened: tuple[Calibration, Phase]

    def open(self, generation: NativeGeneration) -> Opened:
        schedule, phases = generation.part(None)
        self.opened = Calibration(schedule), phases[0]
        return Opened(self.opened[0], schedule, phases, needs=NEEDS)

    def ratios(self, report: RunReport) -> PhaseRatios:
        """What was measured. Raises an error unless every step was; `report` tells why calls did not count."""
        calibration, phase = self.opened
        try:
            return calibration.phase(phase)
        except RequestError as error:
            raise RequestError(" ".join([f"{error} In this run:", "; ".join(report.notes) or "no notes.", NEEDS])) from error


def check_one_prompt(**branches: list[Any]) -> None:
    """branches: CONDITIONING of those that run."""
    for branch, conditioning in branches.items():
        ranges = [(entry.get("start_percent", 0.0), entry.get("end_percent", 1.0)) for _, entry in conditioning]
        if ranges != [(0.0, 1.0)]:
            found = "holds a range of steps" if len(ranges) == 1 else f"has {len(ranges)} parts"
            raise RequestError(f"The {branch} conditioning {found}. {NEEDS}")


def written(table: RatioTable) -> Path:
    """Puts the table where FastVideo MagCache looks for it."""
    folder = Path(folder_paths.get_folder_paths(RATIOS)[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{table.name}.json"
    with whole_file(file) as part:
        part.write_text(table.json(), "utf-8")
    return file


def told(table: RatioTable, file: Path, request: SamplingRequest) -> str:
    """For people: what was measured, and what MagCache does with it in a generation like this one."""
    settings = recommended(table)
    spread = max(value for phase in table.phases for row in phase.deviation.values() for value in row)
    plan = plan_magcache(request.plan(), table, settings, joint=True).text()
    return (
        f"Measured {table.steps} steps; the ratios spread by {spread:.3f} over the tokens at most. FastVideo MagCache finds the "
        f"table by the model's weights: {file}\nWith preset auto (threshold {settings.threshold:g}, max_skips "
        f"{settings.max_skips}, retention {settings.retention:g}) a generation like this one is planned as\n{plan}"
    )
