"""One generation with the engine's loop inside core's sampling, so that everything attached to the MODELs acts as usual."""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import torch

from fastvideo_core import RunReport, SamplingRequest

from .facts import check_latent, wan_facts
from .guider import WanGuider
from .loop import EngineLoop
from .marks import NO_MARKS, Marks
from .part import WHOLE, SamplerPart
from .plan import GuiderSettings
from .progress import ALONE, Progress
from .state import NOT_KEPT, Kept, about


def sample(
    experts: Mapping[str, Any], positive: Any, negative: Any, latent: dict[str, Any], request: SamplingRequest,
    part: SamplerPart = WHOLE, kept: Kept = NOT_KEPT, marks: Marks = NO_MARKS, notes: Sequence[str] = (),
    progress: Progress = ALONE,
) -> tuple[dict[str, Any], RunReport]:  # fmt: skip
    """One generation on native MODELs, or the part of one. Returns LATENT and the run's report.

    Args:
        experts: MODELs by the names of the request's phases.
        marks: what tells of a few-step recipe; what contradicts it is told before the run and in the report.
        notes: for the report.
        progress: where it is told while it works.
    """
    samples, sigmas = latent.get("samples"), part.levels(request.levels)
    settings = GuiderSettings(
        phases=request.settings,
        guidance=request.guidance,
        shift=None if request.sigmas is not None else request.shift,
        partial=len(sigmas) < len(request.levels),
    )
    if not settings.partial:
        request.plan()  # whose errors speak of what was asked
    shifted = {name: with_shift(expert, settings.shift) for name, expert in experts.items()}
    check_latent(samples, wan_facts(next(iter(experts.values()))))  # before noise is made for it
    noise, levels = part.noise(latent, request.seed), torch.tensor(sigmas, dtype=torch.float32, device="cpu")
    guider = WanGuider(shifted, positive, negative, settings, marks.of_run(list(experts.values())))
    what, resumed = {}, None
    if kept != NOT_KEPT:
        schedule = guider.planned(noise, levels)
        what = about(experts, schedule, request, latent, guider.prompts, part)
        resumed = kept.resumed(what, schedule)
    guider = guider.for_run(noise, levels, resumed)
    guider.notes, guider.progress = (*guider.notes, *notes), progress
    loop = EngineLoop(
        guider=guider, request=request, start=part.start_at_step, resumed=resumed, phases=kept.stop_after_phase, keep=kept.keep,
        keep_last=kept.keep_last, about=what,
    )  # fmt: skip
    video = guider.sample(
        noise,
        samples,
        comfy.samplers.KSAMPLER(loop),
        levels,
        denoise_mask=latent.get("noise_mask"),
        callback=progress.prepare(guider.model_patcher, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=request.seed,
    )
    entries = {name: value for name, value in latent.items() if not name.startswith("downscale_ratio")}
    return {**entries, "samples": video.to(comfy.model_management.intermediate_device())}, guider.report


def with_shift(model: Any, shift: float | None) -> Any:
    """The MODEL with this shift, so that whatever reads percentages of the schedule (other patches) sees the same one.

    Args:
        shift: None where the MODEL stays as it is.
    """
    if shift is None:
        return model
    clone, before = model.clone(), model.get_model_object("model_sampling")
    sampling = _Shifted(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=1000)
    if hasattr(before, "noise_scale"):  # newer cores
        sampling.set_noise_scale(before.noise_scale)
    clone.add_object_patch("model_sampling", sampling)
    return clone


class _Shifted(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Core's noise levels of flow models, as its ModelSamplingSD3 node makes them."""
