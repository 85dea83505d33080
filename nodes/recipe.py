"""FastVideo Recipe: what a few-step model was distilled to be sampled with, for all samplers."""

from typing import Any

import torch
from comfy_api.latest import io

from fastvideo_core import RECIPES, Guess, Recipe, RequestError, WanVariant, attachments, recipe, shifted_sigmas

from .checked import checked
from .inputs import model_inputs
from .native.facts import check_experts, wan_facts
from .native.marks import Marks, marks_of, on_models
from .native.phases import ModelPhase, Phases
from .native.preset import AUTHORS, of_variant, published_by_name, unpublished
from .native.solver_sampler import solver_sampler
from .requests import prompt_of
from .sockets import FASTER, NOT_CONNECTED, SAMPLING, PhasesSocket, connected

AUTO = "auto"
AUTO_OR_AUTHORS = f"{AUTO}, or {AUTHORS}"
SINGLE_BOUNDARY = 0.875
"""The boundary output where there is one expert: FastVideo Sampler does not use it then."""


class FastVideoRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoRecipe",
            display_name="FastVideo Recipe",
            category=SAMPLING,
            description="Noise levels, solver, guidance and phases of few-step models and LoRAs: lightx2v, Lightning, FastWan, "
            "TurboDiffusion, CausVid and others, recognised by the model or chosen by name.",
            search_aliases=[
                "few steps", "4 steps", "lightx2v", "lightning", "fastwan", "turbo", "distilled", "lcm", "causvid", "wan",
                "few step lora", "turbodiffusion", "anyflow", "rcm", *FASTER,
            ],
            inputs=[
                *model_inputs(),
                io.Combo.Input(
                    "recipe", default=AUTO,
                    options=[AUTO, *(name for name, row in RECIPES.items() if not row.engine_only), AUTO_OR_AUTHORS],
                    tooltip="auto: recognised by the names of the model's file and LoRAs and by its tensors; the text output "
                    "names the guess and why. auto, or as the model's authors: the same, and where nothing is recognised, as "
                    "with the LoRA's strength at 0, the full run of the published model. The others: see the help page.",
                ),
                io.Model.Input(
                    "base_model", optional=True,
                    tooltip="The high-noise expert without its distillation LoRA, for recipes that begin with it (three phases).",
                ),
            ],
            outputs=[
                PhasesSocket.Output(display_name="phases", tooltip="For FastVideo Phase Sampler or FastVideo Guider."),
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="Noise levels, for FastVideo Sampler, FastVideo Phase Sampler or SamplerCustomAdvanced.",
                ),
                io.Sampler.Output(display_name="sampler", tooltip="The solver as a SAMPLER, for SamplerCustomAdvanced."),
                io.Combo.Output(
                    display_name="solver", tooltip="The solver, for that input of FastVideo Sampler or FastVideo Phase Sampler.",
                ),
                io.Float.Output(
                    display_name="guidance_scale", tooltip="Of the distilled model, for both scales of FastVideo Sampler.",
                ),
                io.Float.Output(
                    display_name="boundary", tooltip="Where the low-noise expert takes over, for FastVideo Sampler.",
                ),
                io.String.Output(display_name="text", tooltip="The recipe, its source, and by what it was recognised."),
            ],
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, recipe: str, low_noise_model: Any = NOT_CONNECTED, base_model: Any = NOT_CONNECTED
    ) -> io.NodeOutput:
        experts = [model] if connected(low_noise_model) is None else [model, low_noise_model]
        base = connected(base_model)
        for number, other in enumerate([*experts, *([] if base is None else [base])], start=1):
            check_experts(wan_facts(model), wan_facts(other), f"input {number}")
        marks = marks_of(experts, prompt_of(cls), ("model", "low_noise_model"))
        guesses = marks.guesses(experts, with_base=base is not None)
        if recipe == AUTO_OR_AUTHORS and not guesses:
            return io.NodeOutput(*as_authors(_published(experts, marks), experts))
        row = _chosen(recipe, guesses, marks)
        _check_connections(row, len(experts), base)
        return io.NodeOutput(
            _phases(row, experts, base),
            torch.tensor(row.levels.sigmas, dtype=torch.float32, device="cpu"),
            solver_sampler(row.solver),
            row.solver,
            row.guidance_scale,
            SINGLE_BOUNDARY if row.boundary is None else row.boundary,
            "\n".join([row.text(), *_told(row, recipe, guesses, experts)]),
        )


def _chosen(name: str, guesses: tuple[Guess, ...], marks: Marks) -> Recipe:
    if name not in (AUTO, AUTO_OR_AUTHORS):
        return recipe(name)
    if not guesses:
        seen = ", ".join(marks.names) or "no file's name"
        raise RequestError(
            f"recipe is {AUTO}, and nothing tells of a few-step model that fits what is connected: looked at {seen}, and at the "
            "names of tensors. Choose the recipe by name; a model that is not distilled needs none."
        )
    row = guesses[0].recipe
    if row.engine_only:
        raise RequestError(f"The model is recognised as {row.name}, which does not run in ComfyUI: {row.engine_only}")
    return row


def _published(experts: list[Any], marks: Marks) -> WanVariant:
    row = published_by_name(wan_facts(experts[0]), len(experts) > 1, marks.names)
    if row is None:
        raise RequestError(f"recipe is {AUTO_OR_AUTHORS!r}, and {unpublished(experts)}. Choose a recipe by name.")
    return row


def as_authors(row: WanVariant, experts: list[Any]) -> tuple[Any, ...]:
    """All outputs, for a model that is not distilled: the full run of a published one."""
    scales = [row.guidance_scale, *([] if row.low_noise_guidance_scale is None else [row.low_noise_guidance_scale])]
    until = [0.0] if row.boundary is None else [row.boundary, 0.0]
    phases = Phases(
        ModelPhase(model=model, until=level, guidance_scale=scale)
        for model, level, scale in zip(experts, until, scales, strict=True)
    )
    sigmas = torch.tensor(shifted_sigmas(row.steps, row.shift), dtype=torch.float32, device="cpu")
    told = f"no few-step model is recognised: {of_variant(row).note}, guidance {' and '.join(f'{scale:g}' for scale in scales)}"
    boundary = SINGLE_BOUNDARY if row.boundary is None else row.boundary
    return phases, sigmas, solver_sampler("unipc"), "unipc", row.guidance_scale, boundary, told


def _check_connections(row: Recipe, experts: int, base: Any) -> None:
    if experts != len(row.experts):
        do = "connect the low-noise expert to low_noise_model" if experts == 1 else "disconnect low_noise_model"
        raise RequestError(f"Recipe {row.name} is of {len(row.experts)} experts: {do}, or choose another recipe.")
    if row.has_base and base is None:
        raise RequestError(
            f"Recipe {row.name} begins with the high-noise expert without its LoRA: connect that model to base_model, or choose "
            "a recipe of two phases."
        )
    if base is not None and not row.has_base:
        raise RequestError(
            f"base_model is connected, and recipe {row.name} has no phase without the LoRA: disconnect it, or choose one of "
            "three phases."
        )


def _phases(row: Recipe, experts: list[Any], base: Any) -> Phases:
    models = dict(zip(row.experts, experts, strict=True))
    return Phases(
        ModelPhase(model=base if phase.base else models[phase.expert], until=phase.until, guidance_scale=phase.guidance_scale)
        for phase in row.phases
    )


def _told(row: Recipe, name: str, guesses: tuple[Guess, ...], experts: list[Any]) -> list[str]:
    """By what it was recognised, what else it may be, and what on the models contradicts it."""
    lines = []
    if name in (AUTO, AUTO_OR_AUTHORS):
        lines.append(f"recognised as {guesses[0].text()}")
        lines += [f"or {guess.text()}" for guess in guesses[1:]]
    elif guesses and row not in [guess.recipe for guess in guesses]:
        lines.append(f"by its marks the model is rather {guesses[0].text()}")
    published = {variant.name for variant in wan_facts(experts[0]).variants(len(experts) > 1)}
    if published and not published & set(row.networks):
        lines.append(f"the recipe is of {', '.join(row.networks)}, and the model is {' or '.join(sorted(published))}")
    return [*lines, *attachments(row, **on_models(experts))]


NODES = [FastVideoRecipe]
