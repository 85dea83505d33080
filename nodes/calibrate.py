"""Measuring a MODEL's ratio table: one dense generation, and a file that FastVideo MagCache finds by the model's weights."""

import logging
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from fastvideo_core import GuidanceMode, GuidanceSettings, Phase, RequestError, RunReport, SamplingRequest, is_one
from fastvideo_core.step_cache import (
    Calibration,
    PhaseRatios,
    RatioTable,
    fingerprint,
    measured_table,
    plan_magcache,
    recommended,
)

from .checked import checked
from .magcache import RATIOS
from .native_generation import NativeGeneration, network_weights
from .sampler import sample
from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, connected, guidance_inputs
from .step_cache import Opened, with_cache

NEEDS = (
    "FastVideo Calibrate MagCache measures each branch as one prompt over the whole video, in every step. Connect one prompt to "
    "positive and one to negative, not combined ones and none with an area, a mask or a range of steps of its own, and remove "
    "context windows."
)
GUIDANCE = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode")


class NativeCalibration:
    """Measures one generation of one MODEL, as a cache that never skips."""

    name = "FastVideo Calibrate MagCache"

    def __init__(self) -> None:
        self.opened: tuple[Calibration, Phase]

    def open(self, generation: NativeGeneration) -> Opened:
        schedule, phase = generation.phase(None)
        self.opened = Calibration(schedule), phase
        return Opened(self.opened[0], schedule, phase, needs=NEEDS)

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
    file, part = folder / f"{table.name}.json", folder / f"{table.name}.part"
    part.write_text(table.json(), "utf-8")
    return part.replace(file)


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


class FastVideoCalibrateMagCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoCalibrateMagCache",
            display_name="FastVideo Calibrate MagCache",
            category=CATEGORY,
            description="Makes one full video and measures how the model's steps resemble each other. FastVideo MagCache uses "
            "the result from then on for this model.",
            search_aliases=["magcache calibration", "ratio table", "mag ratios"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; the high-noise expert where there are two."),
                io.Model.Input("low_noise_model", optional=True, tooltip="Low-noise expert of Wan 2.2 T2V/I2V A14B."),
                io.Conditioning.Input("positive", tooltip="A prompt of the kind that you mostly use."),
                io.Conditioning.Input("negative", tooltip="The negative prompt that you mostly use."),
                io.Latent.Input("latent", tooltip="Size of the video, and for TI2V 5B the given first frame with its mask."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the noise. The ratios depend on it little.",
                ),
                io.Int.Input(
                    "steps", default=40, min=2, max=1000,
                    tooltip="More steps tell more: other step counts are read off between the measured noise levels.",
                ),
                io.Float.Input(
                    "shift", default=5.0, min=0.01, max=100.0, step=0.1,
                    tooltip="As in FastVideo Sampler. MagCache's modes nearest and official want this shift, resampled any.",
                ),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The video that was measured, for VAE Decode."),
                RunReportSocket.Output(display_name="report", tooltip="What ran, for FastVideo Run Report."),
                io.String.Output(display_name="text", tooltip="Where the table is, and what MagCache does with it."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        guidance_scale: float, low_noise_guidance_scale: float, boundary: float, guidance_mode: GuidanceMode,
        low_noise_model: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        low_noise_model = connected(low_noise_model)
        two = low_noise_model is not None
        request = SamplingRequest(
            steps=steps,
            shift=shift,
            guidance_scale=guidance_scale,
            low_noise_guidance_scale=low_noise_guidance_scale if two else None,
            boundary=boundary if two else None,
            seed=seed,
            guidance=GuidanceSettings(mode=guidance_mode),
        )
        guided = not all(is_one(phase.guidance_scale) for phase in request.plan().phases)
        check_one_prompt(positive=positive, **({"negative": negative} if guided else {}))
        models = [model, low_noise_model] if two else [model]
        meters = [NativeCalibration() for _ in models]
        measuring = [with_cache(*pair) for pair in zip(models, meters, strict=True)]
        video, report = sample(measuring[0], measuring[1] if two else None, positive, negative, latent, request)
        table = measured_table(
            [fingerprint(network_weights(expert)) for expert in models],
            request,
            [meter.ratios(report) for meter in meters],
            model.model.get_dtype_inference(),
            report.latent_shape,
        )
        text = told(table, written(table), request)
        logging.info("%s", text)
        return io.NodeOutput(video, report, text, ui=ui.PreviewText(text))


NODES = [FastVideoCalibrateMagCache]
