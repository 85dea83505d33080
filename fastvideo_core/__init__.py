"""Fast Wan 2.1 / 2.2 video generation, host-free: start reading at generate.py."""

from .conditioning import TEXT_TOKENS, Conditioning, GivenFrame, image_condition
from .errors import CapacityError, ConditioningError, FastVideoError, LoadError, NumericsError, RequestError
from .generate import Step, check_finite, denoise, generate, seeded_noise
from .guidance import Branch, Call, Denoiser, Guidance, GuidanceMode, GuidanceSettings, Prediction, guide
from .report import PhaseReport, RunReport, phase_reports
from .request import SamplingRequest, VideoSize
from .schedule import TIMESTEPS, Phase, Schedule, plan, shifted_sigmas
from .solvers import Solver, SolverName, make_solver
from .text import clean_prompt, pad_rows

__all__ = [
    "TEXT_TOKENS", "TIMESTEPS", "Branch", "Call", "CapacityError", "Conditioning", "ConditioningError", "Denoiser",
    "FastVideoError", "GivenFrame", "Guidance", "GuidanceMode", "GuidanceSettings", "LoadError", "NumericsError", "Phase",
    "PhaseReport", "Prediction", "RequestError", "RunReport", "SamplingRequest", "Schedule", "Solver", "SolverName", "Step",
    "VideoSize", "check_finite", "clean_prompt", "denoise", "generate", "guide", "image_condition", "make_solver", "pad_rows", "phase_reports", "plan",
    "seeded_noise", "shifted_sigmas",
]  # fmt: skip
