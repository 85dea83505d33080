"""Auto-tune: a few runs that find how far a step cache may go on this model."""

import logging
from collections.abc import Callable
from itertools import count
from typing import Any, get_args

from comfy_api.latest import io, ui
from torch import Tensor

from fastvideo_core import (
    Attempt,
    CacheSettings,
    DBCacheSettings,
    GuidanceMode,
    RunReport,
    SolverName,
    TunedCache,
    blocks_cut,
    check_tunable,
    check_wanted,
    speed_up,
    tune,
    why_no_cache,
)
from fastvideo_core.pictures import plot
from fastvideo_core.quality import compare

from .checked import checked
from .inputs import USUAL, guidance_inputs, model_inputs, prompt_inputs
from .native.cache import with_cache
from .native.dbcache import NativeDBCache
from .native.magcache import NativeMagCache
from .native.marks import marks_of, warned
from .native.progress import OwnProgress
from .native.sample import sample
from .requests import experts_of, prompt_of, request_of, scales_of
from .sockets import ACCELERATION, FASTER, NOT_CONNECTED

MODELS = ("model", "low_noise_model")
GUIDANCE = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode")


def with_settings(model: Any, settings: CacheSettings) -> Any:
    """The MODEL through the cache that these are settings of."""
    if isinstance(settings, DBCacheSettings):
        return with_cache(model, NativeDBCache(settings))
    return with_cache(model, NativeMagCache(settings, "resampled", residuals_on_cpu=False))


class FastVideoAutoTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoAutoTune",
            display_name="FastVideo Auto-tune",
            category=ACCELERATION,
            description="Finds the step cache settings that save most and keep the video as like to the full one as you want: "
            "one full run and three or four with the cache.",
            search_aliases=[
                "tune", "which threshold", "magcache settings", "dbcache settings", "calibrate", "autotune", "threshold",
                *FASTER,
            ],
            is_output_node=True,
            inputs=[
                *model_inputs(told="Wan diffusion model without a cache; the high-noise expert of two."),
                *prompt_inputs(*USUAL),
                io.Vae.Input("vae", tooltip="The model's VAE: the videos are compared as people see them."),
                io.Latent.Input("latent", tooltip="Size of the videos; a smaller or shorter one than yours tunes sooner."),
                io.Combo.Input(
                    "cache", options=list(get_args(TunedCache)), default="magcache",
                    tooltip="magcache needs a ratio table of the model, published or from FastVideo Calibrate MagCache; dbcache "
                    "needs none.",
                ),
                io.Float.Input(
                    "target_ssim", default=0.95, min=0.5, max=1.0, step=0.01, round=0.001,
                    tooltip="How like to the full video, 1 being equal: SSIM, mean over the frames.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the noise; the same for all runs.",
                ),
                io.Int.Input("steps", default=20, min=2, max=1000, tooltip="As you sample: settings hold for a step count."),
                io.Float.Input("shift", default=5.0, min=0.01, max=100.0, step=0.1, tooltip="As in FastVideo Sampler."),
                io.Combo.Input(
                    "solver", options=["unipc", "euler", "dpmpp_2m"], default="unipc", tooltip="As in FastVideo Sampler.",
                ),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="With the cache and the settings that were found."),
                io.Model.Output(display_name="low_noise_model", tooltip="The same for the second expert, where there is one."),
                io.String.Output(display_name="text", tooltip="What was tried, and what was found."),
                io.Image.Output(display_name="plot", tooltip="SSIM over the share of block calls saved."),
                io.String.Output(display_name="json", tooltip="All of it, for programs."),
            ],
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, vae: Any, latent: dict[str, Any], cache: TunedCache, target_ssim: float,
        seed: int, steps: int, shift: float, solver: SolverName, guidance_scale: float, low_noise_guidance_scale: float,
        boundary: float, guidance_mode: GuidanceMode, low_noise_model: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        check_wanted(cache, target_ssim)
        experts = experts_of(model, low_noise_model)
        request = request_of(
            seed=seed, steps=steps, shift=shift, solver=solver, guidance_mode=guidance_mode,
            **scales_of(experts, guidance_scale, low_noise_guidance_scale, boundary),
        )  # fmt: skip
        recipes = marks_of(list(experts.values()), prompt_of(cls), MODELS).of_run(list(experts.values()))
        told = warned(recipes, request.plan(), solver, cache=True)
        check_tunable(cache, why_no_cache(recipes, request.plan()))

        numbers = count(1)

        def generated(settings: CacheSettings | None) -> tuple[Tensor, RunReport]:
            through = experts if settings is None else {name: with_settings(each, settings) for name, each in experts.items()}
            video, report = sample(through, positive, negative, latent, request, progress=OwnProgress(f"run {next(numbers)}, "))
            return decoded(vae, video["samples"]), report

        found = tune(cache, target_ssim, trial(*generated(None), generated))
        text = "\n".join([found.text(), *told])
        logging.info("%s", text)
        tuned = [with_settings(expert, found.best.settings) for expert in experts.values()]
        outputs = (*tuned, *([] if len(tuned) == 2 else [None]), text, plot([found.panel()])[None], found.json())
        return io.NodeOutput(*outputs, ui=ui.PreviewText(text))


def trial(
    dense: Tensor, dense_report: RunReport, generated: Callable[[CacheSettings], tuple[Tensor, RunReport]]
) -> Callable[[CacheSettings], Attempt]:
    """dense: frames of the run without a cache; generated: runs through a cache, and gives frames and report."""

    def attempt(settings: CacheSettings) -> Attempt:
        frames, report = generated(settings)
        tried = Attempt(
            settings=settings,
            quality=compare(dense, frames).mean,
            cut=blocks_cut(report),
            speed=speed_up(dense_report, report),
            seconds=report.total_seconds,
        )
        logging.info("%s", tried.line())
        return tried

    return attempt


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """Frames (T, 3, H, W) in 0..1 of latents (B, C, T, H, W), one video after the other."""
    frames = vae.decode(samples)  # (B, T, H, W, 3) for videos
    return frames.flatten(0, -4).movedim(-1, 1).float().clamp(0, 1)


NODES = [FastVideoAutoTune]
