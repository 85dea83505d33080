"""What tells of a few-step recipe on the canvas: names of files in a MODEL and before it in the prompt, and names of tensors."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from comfy_execution.utils import get_executing_context

from fastvideo_core import Guess, Schedule, recognised, told_of_guesses

from .attached import SPARSE, STEP_CACHE
from .diffusers_lora import model_loras
from .facts import wan_facts

ENDINGS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
FOLDER = "model_name"
"""The input of FastVideo Load Diffusers Model that may be a folder."""
STRENGTHS = ("strength", "strength_model", "lora_strength")


@dataclass(frozen=True)
class Marks:
    """names: of files and LoRAs; tensors: of a network's weights, and of LoRAs on it."""

    names: tuple[str, ...]
    tensors: tuple[str, ...]

    def guesses(self, models: Sequence[Any], with_base: bool = False) -> tuple[Guess, ...]:
        """models: the experts, without the base."""
        two = len(models) > 1
        networks = [row.name for row in wan_facts(models[0]).variants(two)]
        return recognised(self.names, self.tensors, experts=len(models), networks=networks, with_base=with_base)

    def of_run(self, models: Sequence[Any]) -> tuple[Guess, ...]:
        """models: all of a run, patchings of one network among them."""
        networks = list({id(model.model): model for model in models}.values())
        return self.guesses(networks, with_base=len({id(model) for model in models}) > len(networks))


def on_models(models: Sequence[Any]) -> dict[str, bool]:
    """Which of what a recipe may want off is on one of them."""
    keys = {key for model in models for tree in model.wrappers.values() for key in tree}
    return {"cache": STEP_CACHE in keys, "sparse": SPARSE in keys}


def marks_of(models: Sequence[Any], prompt: Any, sockets: Collection[str]) -> Marks:
    """prompt: the running one in API form, None where there is none; sockets: inputs of the running node over which they came."""
    names = [name for model in models for name in _own_names(model)]
    context = get_executing_context()
    if context is not None and isinstance(prompt, Mapping):
        names += names_before(prompt, context.node_id, sockets)
    tensors = [name for model in models for name in _tensors(model)]
    return Marks(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(tensors)))


def names_before(prompt: Mapping[str, Any], node_id: str, sockets: Collection[str]) -> list[str]:
    """Names of files in the inputs of all nodes that these inputs of a node come from."""
    inputs = (prompt.get(node_id) or {}).get("inputs", {})
    waiting = [inputs[name][0] for name in sockets if _is_link(inputs.get(name), prompt)]
    seen: list[str] = []
    names: list[str] = []
    while waiting:
        node = waiting.pop(0)
        if node in seen:
            continue
        seen.append(node)
        given = prompt[node].get("inputs", {})
        names += _files({name: _told(value, prompt) for name, value in given.items()})
        waiting += [value[0] for value in given.values() if _is_link(value, prompt)]
    return names


def _is_link(value: Any, prompt: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt


def _told(value: Any, prompt: Mapping[str, Any]) -> Any:
    """What an input is given: where it comes from a primitive node of core's, that one's value."""
    if not _is_link(value, prompt) or not str(prompt[value[0]].get("class_type")).startswith("Primitive"):
        return value
    return prompt[value[0]].get("inputs", {}).get("value")


def _files(given: Mapping[str, Any]) -> Iterator[str]:
    """Of a node's inputs; a LoRA that is off or of strength 0 is none. Lists of LoRAs in one node are entries with inputs of
    their own, such as {"on": true, "lora": "...", "strength": 1}."""
    if given.get("on") is False or any(given.get(name) == 0 for name in STRENGTHS):
        return
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _files(value)
        elif isinstance(value, str) and (value.lower().endswith(ENDINGS) or name == FOLDER):
            yield value


def _own_names(model: Any) -> Iterator[str]:
    """What the MODEL was loaded from, where core's loader kept it, and LoRAs that FastVideo Load Diffusers Model put on it."""
    loader = getattr(model, "cached_patcher_init", None)
    for value in loader[1] if loader else ():
        if isinstance(value, str) and value.lower().endswith(ENDINGS):
            yield PurePath(value).name
    yield from (lora.name for lora in model_loras(model) if lora.strength != 0)


def _tensors(model: Any) -> Iterator[str]:
    yield from (name for name, _ in model.model.diffusion_model.named_parameters())
    for patches in model.patches.values():
        for strength, patch, *_ in patches:
            if strength != 0:
                yield from sorted(getattr(patch, "loaded_keys", ()))


def warned(recipes: Sequence[Guess], schedule: Schedule, solver: str | None, **on: bool) -> tuple[str, ...]:
    """What contradicts the recipe of the MODELs, which stands in the log before anything runs; as `told_of_guesses`."""
    told = told_of_guesses(recipes, schedule, solver, **on)
    for sentence in told:
        logging.warning("%s", sentence)
    return told


def recipes_of(model: Any) -> tuple[Guess, ...]:
    """Those that one MODEL may be of by what it holds itself, in a run of which nothing else is known."""
    marks, facts = marks_of([model], None, ()), wan_facts(model)
    networks = [row.name for two in (False, True) for row in facts.variants(two)]
    return recognised(marks.names, marks.tensors, networks=networks)


NO_MARKS = Marks((), ())
