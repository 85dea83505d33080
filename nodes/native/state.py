"""The state of a native generation between two steps: what tells its MODELs, and files in ComfyUI's folders."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import folder_paths
from torch import Tensor

from fastvideo_core import (
    GenerationState,
    RequestError,
    SamplingRequest,
    Schedule,
    about_run,
    counted,
    tensors_digest,
    weights_digest,
)

from .files import model_file
from .generation import network_weights
from .part import SamplerPart
from .remote_network import remote_of

STATES = "fastvideo_states"
"""The folder of ComfyUI's models directory where states lie."""
NONE = "none"
_NAME = re.compile(r"[\w-][\w.-]{0,99}")


def check_state_name(name: str) -> None:
    """Raises RequestError unless it is empty, or one that a file may have."""
    if name and not _NAME.fullmatch(name):
        raise RequestError(f"save_state is {name!r:.80}: use letters, digits, points and dashes, and no folders.")


@dataclass(frozen=True, kw_only=True)
class KeptState:
    """What becomes of the state of a run. save: a name, where it is kept after each phase and where the run ends early; resume:
    the name of one to go on from; stop_after_phase: how many phases are made, 0 for all."""

    save: str = ""
    resume: str = NONE
    stop_after_phase: int = 0
    keep_last: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_state_name(self.save)
        if self.stop_after_phase and not self.save:
            raise RequestError(
                f"stop_after_phase is {self.stop_after_phase} and save_state is empty: what is done would be lost. Give "
                "save_state a name, and the run that goes on the same name as resume_state."
            )

    @property
    def file(self) -> Path | None:
        """Where it is kept."""
        return state_file(self.save) if self.save else None

    @property
    def keep(self) -> Callable[[GenerationState], object] | None:
        return None if self.file is None else partial(save_state, file=self.file)

    def resumed(self, about: Mapping[str, Any], schedule: Schedule) -> GenerationState | None:
        """Raises LoadError where it cannot be read, RequestError where it is of another generation than `about` tells, or where
        no step is left."""
        if self.resume == NONE:
            return None
        state = GenerationState.load(model_file(STATES, self.resume))
        state.check(about)
        if self.stop_after_phase and state.step >= schedule.phases[: self.stop_after_phase][-1].stop:
            raise RequestError(
                f"stop_after_phase is {self.stop_after_phase} and {self.resume} is the state after {state.step} of "
                f"{counted(schedule.steps, 'step')}, where that phase is over: no step is left. Set stop_after_phase higher, "
                "or to 0."
            )
        return state


NOT_KEPT = KeptState()


class Kept(Protocol):
    """What becomes of the states of a run; a `KeptState`. keep_last: whether that after the last step is kept, too."""

    @property
    def stop_after_phase(self) -> int: ...

    @property
    def keep(self) -> Callable[[GenerationState], object] | None: ...

    @property
    def keep_last(self) -> bool: ...

    def resumed(self, about: Mapping[str, Any], schedule: Schedule) -> GenerationState | None: ...


def save_state(state: GenerationState, file: Path) -> None:
    """It is told in the log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    steps = len(state.about["request"]["sigmas"]) - 1
    logging.info("The state after %d of %d steps is in %s", state.step, steps, state.save(file))


def state_file(name: str) -> Path:
    """Of a state of this name, with or without its ending."""
    return Path(folder_paths.get_folder_paths(STATES)[0]) / f"{name.removesuffix('.safetensors')}.safetensors"


def register_states() -> None:
    """Tells ComfyUI of the folder of states."""
    folder = Path(folder_paths.models_dir) / STATES
    folder_paths.add_model_folder_path(STATES, str(folder))


def state_names() -> list[str]:
    return [name for name in folder_paths.get_filename_list(STATES) if name.endswith(".safetensors")]


def state_version(name: Any) -> int:
    """When the file was written; 0 of none."""
    path = folder_paths.get_full_path(STATES, name) if isinstance(name, str) and name != NONE else None
    return 0 if path is None else Path(path).stat().st_mtime_ns


def about(
    experts: Mapping[str, Any], schedule: Schedule, request: SamplingRequest, latent: Mapping[str, Any], prompts: Sequence[Any],
    part: SamplerPart,
) -> dict[str, Any]:  # fmt: skip
    """What a state of this generation is of; see `about_run`. experts: MODELs by name. prompts: CONDITIONING."""
    told = about_run(
        schedule,
        solver=request.solver,
        seed=request.seed,
        guidance=request.guidance,
        latent_shape=latent["samples"].shape,
        weights={phase.expert: identity(experts[phase.expert]) for phase in schedule.phases},
        conditioning=tensors_digest(dict(_tensors("", [*prompts, latent["samples"], latent.get("noise_mask")]))),
    )
    return {**told, "request": {**told["request"], "add_noise": part.add_noise, "start_at_step": part.start_at_step}}


def identity(model: Any) -> dict[str, str]:
    """What tells a MODEL's weights, and the LoRAs and other patches of them, from others'."""
    patches = dict(_tensors("", model.patches))
    remote = remote_of(model)
    return {
        "file": weights_digest(network_weights(model)) if remote is None else remote.facts["digest"],
        "computed in": str(model.model.get_dtype_inference()).removeprefix("torch."),
        "patches": weights_digest(patches) if patches else NONE,
    }


def _tensors(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in what core hands on, by where they are and the numbers beside them."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(f"{path} {key}", inner)
    elif isinstance(value, list | tuple):
        numbers = " ".join(str(inner) for inner in value if isinstance(inner, int | float | str))
        for index, inner in enumerate(value):
            yield from _tensors(f"{path} {index} {numbers}", inner)
    elif hasattr(value, "__dict__"):  # core's weight adapters, and what its CLIP vision models give
        yield from _tensors(path, {key: inner for key, inner in vars(value).items() if not key.startswith("_")})
