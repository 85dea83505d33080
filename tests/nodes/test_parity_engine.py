"""Two doors, one method: FastVideo Sampler on core's network against the engine on diffusers' network, same weights and noise."""

from typing import Any

import pytest
import torch
from sampling import SETTINGS, conditions_of, latent_of, relative_error, run_chain, run_node
from torch import Tensor

from fastvideo_core import (
    Conditioning,
    GivenFrame,
    Guidance,
    GuidanceSettings,
    SamplingRequest,
    generate,
    image_condition,
    phase_reports,
    seeded_noise,
)
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

KINDS = ["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"]


def run_engine(host: Any, model: Any, kind: str, seeds: tuple[int, ...], **changes: Any) -> tuple[Tensor, Any]:
    """The same request through `fastvideo_core.generate`. Returns samples as LATENT has them, and the guidance's account."""
    settings = {**SETTINGS, **changes}
    two = len(seeds) == 2
    request = SamplingRequest(
        steps=settings["steps"], shift=settings["shift"], guidance_scale=settings["guidance_scale"], seed=settings["seed"],
        low_noise_guidance_scale=settings["low_noise_guidance_scale"] if two else None,
        boundary=settings["boundary"] if two else None, solver=settings["solver"],
        guidance=GuidanceSettings(
            mode=settings["guidance_mode"], gate=settings["gate"], rescale=settings["guidance_rescale"]
        ),
    )  # fmt: skip
    names = ("high_noise", "low_noise") if two else ("single",)
    files = [host.model_folder("diffusion_models") / f"{kind}_{seed}.safetensors" for seed in seeds]
    transformers = dict(zip(names, map(load_transformer, files), strict=True))
    shape, cpu = tuple(latent_of(kind)["samples"].shape), torch.device("cpu")
    experts = WanExperts(transformers, engine_conditioning(model, kind), shape, cpu, cpu)
    guidance = Guidance(request.plan(), request.guidance)
    for step in generate(request, experts, engine_conditioning(model, kind), seeded_noise(shape, request.seed), guidance):
        latents = step.latents
    return model.model.process_latent_out(latents), guidance


def engine_conditioning(model: Any, kind: str) -> Any:
    """What `conditions_of` says, in the engine's terms."""
    ((positive, entry),), ((negative, _),) = conditions_of(kind)
    image = tokens = frame = None
    if "concat_latent_image" in entry:
        known = torch.zeros(9, dtype=torch.bool)
        known[[0, -1] if kind == "flf2v" else [0]] = True
        image = image_condition(model.model.process_latent_in(entry["concat_latent_image"]), known)
    if "clip_vision_output" in entry:
        tokens = entry["clip_vision_output"].penultimate_hidden_states
    if kind == "ti2v":
        frame = GivenFrame(model.model.process_latent_in(latent_of(kind)["samples"])[:, :, :1])
    return Conditioning(positive=positive, negative=negative, image=image, image_tokens=tokens, first_frame=frame)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(comfy: Any, load_wan: Any, kind: str) -> None:
    model = load_wan(kind)
    ours, report = run_node(comfy, model, kind, solver="unipc", steps=4)
    engine, guidance = run_engine(comfy, model, kind, (0,), solver="unipc", steps=4)
    assert relative_error(ours, engine) < 1e-5
    assert_same_account(report, guidance)


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"])
def test_two_experts_with_the_history_going_on(comfy: Any, load_wan: Any, solver: str) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, report = run_node(comfy, high, "t2v", low, solver=solver)
    engine, guidance = run_engine(comfy, high, "t2v", (0, 1), solver=solver)
    assert relative_error(ours, engine) < 1e-5
    assert_same_account(report, guidance)


def test_history_that_starts_again_at_the_switch_would_differ(comfy: Any, load_wan: Any) -> None:
    """So the equality above does say that the history goes on."""
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, report = run_node(comfy, high, "t2v", low, solver="dpmpp_2m")
    assert relative_error(run_chain(high, low, "t2v", report.phases[0].steps, sampler_name="dpmpp_2m"), ours) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": 0.25},
        {"guidance_mode": "sequential"},
        {"guidance_mode": "batched", "gate": 0.5},
        {"guidance_rescale": 0.7},
        {"guidance_scale": 1.0},
        {"low_noise_guidance_scale": 1.0, "gate": 0.0},
    ],
    ids=str,
)
def test_guidance_settings(comfy: Any, load_wan: Any, changes: dict[str, Any]) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, report = run_node(comfy, high, "t2v", low, **changes)
    engine, guidance = run_engine(comfy, high, "t2v", (0, 1), **changes)
    assert relative_error(ours, engine) < 1e-5
    assert_same_account(report, guidance)


def assert_same_account(report: Any, guidance: Any) -> None:
    """The same phases, calls and batch sizes behind both doors."""
    assert _without_rounding(report.phases) == _without_rounding(phase_reports(guidance))


def _without_rounding(phases: Any) -> list[tuple[Any, ...]]:
    return [(p.expert, p.steps, round(p.first_sigma, 5), p.guidance_scale, p.calls, p.reused_negative) for p in phases]
