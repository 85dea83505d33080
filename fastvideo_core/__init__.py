"""Fast Wan 2.1 / 2.2 video generation, host-free. The loop is in generate.py: start reading there.

From a diffusers repository on disk to frames:

>>> from fastvideo_core import Job, SamplingRequest, WanModel, generate_many
>>> model = WanModel.load(folder, torch.float32, device=device)
>>> size = model.video_size(width=64, height=32, frames=9)
>>> conditioning = model.condition("a red circle moves to the left", "blurry", size)
>>> request = SamplingRequest(steps=4, shift=5.0, guidance_scale=5.0, seed=7)
>>> generation = model.generate(request, conditioning, size)
>>> for step in generation:
...     show_progress(step.index + 1, step.schedule.steps, step.seconds)
>>> frames = model.decode(generation.latents)
>>> tuple(frames.shape), bool(0 <= frames.min() <= frames.max() <= 1)
((1, 3, 9, 32, 64), True)
>>> report = generation.report().text()

`WanModel.from_files` takes single files (ComfyUI's too) instead of a repository. An image-to-video model is told its image by
`model.condition(..., first_image=image)`; two experts need `SamplingRequest(boundary=model.boundary, ...)`. Which expert works
where, with which guidance scale and LoRA strengths, may also be a list: `SamplingRequest(phases=[PhaseSettings(...), ...], ...)`.
Distilled models have theirs in a table: `recipe("lightx2v_wan2.1").request(seed=7)`.

Between two steps, and after an interrupt, `generation.state().save(path)` keeps where it is; the same video comes, bit by bit, of
`model.generate(request, conditioning, size, state=GenerationState.load(path))`, which makes the steps that are left.

Many prompts share the loadings of the experts, and each gives the video that it gives alone:

>>> jobs = [Job(request=request, conditioning=conditioning, size=size, name=name) for name in ("a", "b")]
>>> [bool((outcome.latents == generation.latents).all()) for outcome in generate_many(model, jobs)]
[True, True]

Several GPUs, here or in a Ray cluster, work on one video or on many (`pip install fastvideo-nodes[cluster]`):

>>> with Workers.local(gpus=8, layout=Layout(cfg=2, ulysses=4)) as workers:  # doctest: +SKIP
...     model = workers.load(folder, torch.bfloat16)  # the rest is as above; `workers.pool(model)` for `generate_many`
"""

from .ab import Measured, against, measure
from .attention.experts import AttentionSettings
from .checks import ROUNDING, is_one, settled_pixels
from .conditioning import TEXT_TOKENS, Conditioning, GivenFrame, image_condition
from .digests import tensors_digest, weights_digest
from .errors import (
    CapacityError,
    ConditioningError,
    FastVideoError,
    LoadError,
    NumericsError,
    RequestError,
    StoppedError,
    WorkerError,
)
from .generate import Step, check_finite, denoise, generate, seeded_noise
from .guidance import Branch, Call, Denoiser, Guidance, GuidanceMode, GuidanceSettings, Prediction, guide
from .image_motion import amplified
from .json_object import made_of, read_json_file
from .parallel import Layout
from .quality import Comparison, FrameQuality, compare
from .report import (
    AttentionReport,
    CachePhaseReport,
    CacheReport,
    Contribution,
    PhaseReport,
    RunReport,
    SparseReport,
    TextReport,
    joined,
    phase_reports,
    ran_as,
)
from .request import SamplingRequest, VideoSize
from .schedule import TIMESTEPS, Phase, PhaseSettings, Schedule, by_boundary, cut, plan, plan_part, plan_phases, shifted_sigmas
from .solvers import Solver, SolverName, make_solver
from .speed import Speed, speed_up, speed_up_of_all
from .state import GenerationState, Moment, about_run, conditioning_digest, go_on
from .step_cache import DBCacheSettings, MagCacheSettings, RatioTable, StepCache, with_cache_dit, with_dbcache, with_magcache
from .text import clean_prompt, pad_rows
from .tune import Attempt, CacheSettings, TunedCache, Tuning, blocks_cut, check_tunable, check_wanted, tune
from .video_file import save_mp4
from .wan.compiled import CompileSettings
from .wan.demo import load_demo
from .wan.generation import Generation, NewCache
from .wan.image_encoder import ImageEncoder
from .wan.loading import apply_lora, group_offload, load_transformer
from .wan.many import Job, ManyGenerations, Outcome, generate_many
from .wan.model import WanModel
from .wan.recipe import Recipe
from .wan.recipe_checks import attachments, contradictions, told_of_guesses, why_no_cache
from .wan.recipe_marks import Guess, recognised
from .wan.recipes import RECIPES, recipe
from .wan.text_encoder import TextEncoder
from .wan.tokenizer import Tokenizer
from .wan.vae import VideoVAE
from .wan.variants import VARIANTS, WanVariant
from .wan.workers import Workers
from .whole_file import whole_file, writing
from .words import counted

__all__ = [
    "RECIPES", "ROUNDING", "TEXT_TOKENS", "TIMESTEPS", "VARIANTS", "Attempt", "AttentionReport", "AttentionSettings",
    "Branch", "CachePhaseReport", "CacheReport", "CacheSettings", "Call", "CapacityError", "Comparison",
    "CompileSettings", "Conditioning", "ConditioningError", "Contribution", "DBCacheSettings", "Denoiser",
    "FastVideoError", "FrameQuality", "Generation", "GenerationState", "GivenFrame", "Guess", "Guidance",
    "GuidanceMode", "GuidanceSettings", "ImageEncoder", "Job", "Layout", "LoadError", "MagCacheSettings",
    "ManyGenerations", "Measured", "Moment", "NewCache", "NumericsError", "Outcome", "Phase", "PhaseReport",
    "PhaseSettings", "Prediction", "RatioTable", "Recipe", "RequestError", "RunReport", "SamplingRequest", "Schedule",
    "Solver", "SolverName", "SparseReport", "Speed", "Step", "StepCache", "StoppedError", "TextEncoder", "TextReport",
    "Tokenizer", "TunedCache", "Tuning", "VideoSize", "VideoVAE", "WanModel", "WanVariant", "WorkerError", "Workers",
    "about_run", "against", "amplified", "apply_lora", "attachments", "blocks_cut", "by_boundary", "check_finite",
    "check_tunable", "check_wanted", "clean_prompt", "compare", "conditioning_digest", "contradictions", "counted", "cut",
    "denoise", "generate", "generate_many", "go_on", "group_offload", "guide", "image_condition", "is_one", "joined",
    "load_demo", "load_transformer", "made_of", "make_solver", "measure", "pad_rows", "phase_reports", "plan", "plan_part",
    "plan_phases", "ran_as", "read_json_file", "recipe", "recognised", "save_mp4", "seeded_noise", "settled_pixels",
    "shifted_sigmas", "speed_up", "speed_up_of_all", "tensors_digest", "told_of_guesses", "tune", "weights_digest",
    "whole_file", "why_no_cache", "with_cache_dit", "with_dbcache", "with_magcache", "writing",
]  # fmt: skip
