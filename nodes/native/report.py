"""The run report, made from a finished generation of our guiders."""

from collections.abc import Iterator
from typing import Any

from fastvideo_core import ROUNDING, Contribution, Guidance, RunReport, SparseReport, counted, is_one, phase_reports

from .attached import attached
from .diffusers_lora import model_loras
from .diffusers_network import DiffusersNetwork
from .facts import WanFacts, expert_notes
from .override import others_notes
from .phases import boundary_of
from .prompt import running_prompt

RESUMED, STOPPED = "resumed at step", "stopped after"
"""Notes of a run's breaks begin with these words."""


def native_report(guider: Any, run: Any, sampler: Any, seed: int, shape: tuple[int, ...]) -> RunReport:
    """The report of a finished NativeRun of a WanGuider. sampler: the core SAMPLER that drove it."""
    variants = guider.facts.variants(run.two_networks)
    models = [expert.model_patcher for expert in guider.experts.values()]
    mode, reason = _ran_as(run.guidance)
    parts = run.contribution()
    return RunReport(
        model=guider.facts.name,
        variant=" or ".join(row.title for row in variants) or "not a published size",
        solver=solver_name(sampler),
        sigmas=run.schedule.sigmas,
        guidance_mode=mode,
        guidance_reason=reason,
        phases=phase_reports(run.guidance),
        latent_shape=shape,
        device=str(guider.model_patcher.load_device),
        dtype=str(guider.model_patcher.model.get_dtype_inference()).removeprefix("torch."),
        seed=seed,
        step_seconds=tuple(run.stopwatch.laps),
        total_seconds=run.stopwatch.seconds,
        peak_memory_bytes=run.stopwatch.peak_bytes,
        notes=(
            *guider.notes, *_expert_notes(models, guider.facts, run),
            *_notes(run, guider.settings, variants), *_part_notes(run),
            *_state_notes(run, parts), *dict.fromkeys(parts.notes),
            *_unused_training(models, parts.sparse),
            *_partial_loras(models),
            *dict.fromkeys(others_notes(models)),
        ),
        caches=parts.caches,
        attention=parts.attention,
        sparse=parts.sparse,
        texts=parts.texts,
        patches=tuple(name for model in models for name in attached(model)),
        first_step=run.first_step,
        networks=len({id(model.model) for model in models}),
        moves=run.moves,
        prompt=running_prompt(),
    )  # fmt: skip


def solver_name(sampler: Any) -> str:
    """ "euler" of core's sampler function `sample_euler`; the class of a sampler that is none of core's."""
    function = getattr(sampler, "sampler_function", sampler)
    return str(getattr(function, "__name__", type(function).__name__)).removeprefix("sample_")


def _ran_as(guidance: Guidance) -> tuple[str, str]:
    """How the guided steps ran, and why."""
    guided = {call.step for call in guidance.calls if "negative" in call.branches}
    if not guided:
        return "off", "no step ran the negative branch"
    apart = {call.step for call in guidance.calls if call.step in guided and len(set(call.branches)) < 2}
    if guidance.settings.mode != "auto":
        return ("sequential" if apart else "batched"), "as asked"
    if not apart:
        return "batched", "auto: ComfyUI joins the branches when 1.5 times the estimated memory is free"
    if apart == guided:
        return "sequential", "auto: ComfyUI ran the branches apart, for want of memory or because their shapes differ"
    return f"batched in {len(guided - apart)} of {len(guided)} guided steps", "auto: ComfyUI was short of memory in the others"


def _expert_notes(models: list[Any], facts: WanFacts, run: Any) -> tuple[str, ...]:
    whole = run.adds_noise and is_one(run.schedule.sigmas[0]) and run.schedule.sigmas[-1] <= ROUNDING
    return expert_notes(models, facts, whole)


def _notes(run: Any, settings: Any, variants: Any) -> list[str]:
    notes = []
    if run.extra_calls:
        notes.append(f"patches of other packs added {counted(run.extra_calls, 'pass', 'passes')} of their own")
    published, here = {(row.shift, row.boundary) for row in variants}, (settings.shift, boundary_of(settings.phases))
    if settings.shift and run.schedule.steps > 8 and published and here not in published:
        rows = "; ".join(
            f"{row.title}: shift {row.shift:g}" + (f", boundary {row.boundary:g}" if row.boundary else "") for row in variants
        )
        notes.append(f"shift or boundary differ from the published ones ({rows})")
    return notes


def _part_notes(run: Any) -> list[str]:
    """Where the noise of a part of a run comes from, and what becomes of it."""
    first, last = run.schedule.sigmas[0], run.schedule.sigmas[-1]
    notes = []
    if not run.adds_noise:
        notes.append(f"no noise was added: the latent was taken to have that of noise level {first:.4g}")
    elif not is_one(first):
        notes.append(f"noise was added to the latent, up to noise level {first:.4g}")
    if last > ROUNDING:
        notes.append(f"the latent has the noise of level {last:.4g} left, for a sampler that goes on there and adds none")
    return notes


def _state_notes(run: Any, parts: Contribution) -> Iterator[str]:
    """Where it went on from a state, and where it stopped for one."""
    if run.resumed is not None:
        anew = ", ".join(dict.fromkeys(cache.name for cache in parts.caches if not cache.aside))
        yield f"{RESUMED} {run.first_step}" + (f": {anew} began anew" if anew else "")
    yield from run.notes
    done = run.first_step + len(run.stopwatch.laps)
    if done < run.schedule.steps:
        yield f"{STOPPED} {done} of {counted(run.schedule.steps, 'step')}: the latent is the video as the last of them saw it"


def _unused_training(models: list[Any], reports: tuple[SparseReport, ...]) -> tuple[str, ...]:
    """Only diffusers' network has a place for such weights."""
    networks = [model.model.diffusion_model for model in models]
    transformers = [network.transformer for network in networks if isinstance(network, DiffusersNetwork)]
    if not transformers:
        return ()
    from fastvideo_core.wan.loading import trained_with, unused_training  # imports diffusers, which takes seconds

    return unused_training([variant for network in transformers for variant in trained_with(network)], reports)


def _partial_loras(models: list[Any]) -> Iterator[str]:
    """Of LoRAs that FastVideo Load Diffusers Model added: those of which a part was ignored."""
    yield from (lora.line() for model in models for lora in model_loras(model) if lora.ignored)
