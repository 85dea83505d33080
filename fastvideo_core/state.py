"""A generation between two of its steps, as a thing that is kept: what goes on from it makes the same video, bit by bit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from .checks import of_kind, one_of, whole
from .conditioning import Conditioning
from .digests import tensors_digest
from .errors import LoadError, RequestError
from .generate import check_finite
from .guidance import Guidance, GuidanceSettings
from .json_object import made_of, read_json
from .schedule import Schedule, check_sigmas
from .solvers import Solver, SolverName, history_names
from .whole_file import whole_file
from .words import counted

VERSION = 1
"""Of the file."""
KEY = "fastvideo_state"
"""Of the metadata, under which all that is no tensor stands as JSON."""
SHOWN = 8
"""So many differences are told."""
ABOUT: Mapping[str, type] = MappingProxyType(
    {"request": Mapping, "latent_shape": Sequence, "weights": Mapping, "conditioning": str, "linears": list}
)
"""What it tells, besides the version."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationState:
    """All tensors are (B, C, T, H, W), float32 but for what a float64 solver keeps, and copies on the CPU.

    step: the next one. latents: where the steps before it led.
    solver: its history, by `history_names`.
    difference: guidance's last one between the branches, where a gate lets a step of the same phase reuse it.
    batched: whether guidance ran both branches in one call; None where no step was guided yet.
    about: what it is a state of; see `about_run`. linears in it: by what linear layers were computed so far, where that is chosen
        on the machine at hand; rows of their shape, and the way.

    Raises:
        RequestError: these are of no one generation. NumericsError: values are not finite.
    """

    step: int
    latents: Tensor
    solver: Mapping[str, Tensor]
    difference: Tensor | None
    batched: bool | None
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check_about(self.about)
        request, shape = self.about["request"], tuple(self.about["latent_shape"])
        steps = len(check_sigmas(request.get("sigmas"))) - 1
        next_of = f"it is the next of {counted(steps, 'step')}"
        if not 0 <= whole("step", self.step, f"{next_of}.") <= steps:
            raise RequestError(f"step is {self.step}: {next_of}, from 0, or {steps} after the last.")
        of_kind("batched", self.batched, (bool, type(None)), "it is True, False or None.")
        names = history_names(request["solver"], self.step)
        if set(self.solver) != set(names):
            raise RequestError(
                f"The history holds {', '.join(sorted(self.solver)) or 'nothing'}: before step {self.step} solver "
                f"{request['solver']} has {', '.join(names) or 'none'}."
            )
        for name, tensor in self._tensors().items():
            dtype = torch.float64 if name == "solver.rounded_off" else torch.float32
            if tensor.dtype != dtype or tuple(tensor.shape) != shape or len(shape) != 5:
                kind = str(dtype).removeprefix("torch.")
                raise RequestError(f"{name} is {tensor.dtype}, {tuple(tensor.shape)}: it must be {kind}, {shape}.")
            check_finite(tensor, f"What made {name}")

    def save(self, path: Path | str) -> Path:
        """A safetensors file, whole or not at all.

        Raises:
            RequestError: it cannot be written there.
        """
        from safetensors.torch import save

        path = _path(path)
        told = {"step": self.step, "batched": self.batched, "about": dict(self.about)}
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        content = save(tensors, {KEY: json.dumps(told, allow_nan=False)})
        with whole_file(path) as part:
            part.write_bytes(content)
        return path

    @classmethod
    def load(cls, path: Path | str) -> "GenerationState":
        """What `save` wrote.

        Raises:
            LoadError: the file is missing, torn, or no such state.
        """
        path = _path(path)
        if not path.is_file():
            raise LoadError(f"There is no state of a generation at {path}. Save one: generation.state().save(path).")
        what = f"{path} is no state of a generation, begin anew or give a file that GenerationState.save wrote"
        return made_of(what, lambda: cls._read(path))

    @classmethod
    def _read(cls, path: Path) -> "GenerationState":
        from safetensors import safe_open

        with safe_open(str(path), framework="pt", device="cpu") as file:
            told = read_json((file.metadata() or {}).get(KEY, ""), f"its {KEY}")
            # Memory of their own: a mapped file may be written anew meanwhile, and is not aligned as fresh memory is.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
        history = {name.removeprefix("solver."): tensors.pop(name) for name in list(tensors) if name.startswith("solver.")}
        latents, difference = tensors.pop("latents"), tensors.pop("difference", None)
        if tensors or set(told) != {"step", "batched", "about"}:
            raise LoadError(f"it holds {', '.join((*tensors, *told))}.")
        return cls(latents=latents, solver=history, difference=difference, **told)

    def check(self, about: Mapping[str, Any]) -> None:
        """Raises RequestError, with each difference by name, where a generation is another one than this is a state of. Its
        conditioning may be another."""
        found = [
            line
            for part, where in (("request", "request"), ("latent_shape", "request"), ("weights", "model"))
            for line in _differences("" if part == "request" else part, self.about[part], about[part], where)
        ]
        if found:
            more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise RequestError(
                f"The state is of another generation: {'; '.join(found[:SHOWN])}{more}. Go on with what it was made with, or "
                "begin anew without it."
            )

    def _tensors(self) -> dict[str, Tensor]:
        history = {f"solver.{name}": tensor for name, tensor in self.solver.items()}
        return {"latents": self.latents, **history, **({} if self.difference is None else {"difference": self.difference})}


class Moment(NamedTuple):
    """A generation between two steps, by reference: no later step writes into the tensors of an earlier one. As in
    `GenerationState`, on the device of the generation."""

    step: int
    latents: Tensor
    history: Mapping[str, Tensor]
    difference: Tensor | None
    batched: bool | None

    @classmethod
    def of(cls, step: int, latents: Tensor, solver: Solver, guidance: Guidance) -> "Moment":
        return cls(step, latents, solver.history(), guidance.difference_before(step), guidance.batched)

    def at_turn(self, solver: Solver, guidance: Guidance, device: torch.device) -> "Moment":
        """As it is on `device`, before phases of another expert: no difference outlives its phase. solver: a fresh one, which
        goes on there, as guidance does."""
        moment = self._replace(latents=self.latents.to(device), history=_on(device, self.history), difference=None)
        solver.go_on(moment.step, moment.history)
        guidance.go_on(moment.step, None, moment.batched)
        return moment

    def state(self, about: Mapping[str, Any]) -> GenerationState:
        """It waits for the device.

        Raises:
            NumericsError: the latents are not finite.
        """
        return GenerationState(
            step=self.step,
            latents=_copied(self.latents),
            solver={name: _copied(tensor) for name, tensor in self.history.items()},
            difference=None if self.difference is None else _copied(self.difference),
            batched=self.batched,
            about=about,
        )


def go_on(state: GenerationState, solver: Solver, guidance: Guidance, device: torch.device) -> Tensor:
    """Puts a fresh solver and guidance where the state's were. Returns its latents on `device`."""
    solver.go_on(state.step, _on(device, state.solver))
    difference = None if state.difference is None else state.difference.to(device)
    guidance.go_on(state.step, difference, state.batched)
    return state.latents.to(device)


def _on(device: torch.device, history: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is float64 waits on the CPU: some devices have none."""
    cpu = torch.device("cpu")
    return {name: tensor.to(cpu if tensor.dtype == torch.float64 else device) for name, tensor in history.items()}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def about_run(
    schedule: Schedule,
    *,
    solver: SolverName,
    seed: int,
    guidance: GuidanceSettings,
    latent_shape: Sequence[int],
    weights: Mapping[str, Any],
    conditioning: str,
) -> dict[str, Any]:
    """What a state is of, as JSON.

    Args:
        weights: of each expert by name, what tells its network: digests, and the LoRAs on it.
        conditioning: what tells it, such as `conditioning_digest`.
    """
    return {
        "version": VERSION,
        "request": {
            "steps": schedule.steps,
            "solver": solver,
            "seed": seed,
            "guidance": {"mode": guidance.mode, "gate": guidance.gate, "rescale": guidance.rescale},
            "sigmas": list(schedule.sigmas),
            "phases": [
                {"expert": phase.expert, "first": phase.start, "guidance_scale": phase.guidance_scale, "loras": dict(phase.loras)}
                for phase in schedule.phases
            ],
        },
        "latent_shape": list(latent_shape),
        "weights": dict(weights),
        "conditioning": conditioning,
        "linears": [],
    }


def conditioning_digest(conditioning: Conditioning) -> str:
    """Of all that the network is told. It waits for the device."""
    frame = conditioning.first_frame
    parts = {
        "positive": conditioning.positive,
        "negative": conditioning.negative,
        "image": conditioning.image,
        "image_tokens": conditioning.image_tokens,
        "first_frame": None if frame is None else frame.latents,
    }
    return tensors_digest({name: tensor for name, tensor in parts.items() if tensor is not None})


def _path(path: object) -> Path:
    of_kind("path", path, (str, Path), "give the path of a file.")
    assert isinstance(path, str | Path)
    return Path(path)


def _check_about(about: object) -> None:
    of_kind("about", about, Mapping, "it tells what this is a state of.")
    assert isinstance(about, Mapping)
    if about.get("version") != VERSION:
        raise RequestError(f"It is of version {about.get('version')!r:.80}, and version {VERSION} is read here.")
    for name, kind in ABOUT.items():
        of_kind(name, about.get(name), kind, f"it is a {kind.__name__.lower()}.")
    if not all(map(_is_way, about["linears"])):
        raise RequestError(f"linears is {about['linears']!r:.80}: its rows are four whole numbers and a name.")
    one_of("solver", about["request"].get("solver"), get_args(SolverName))


def _is_way(row: object) -> bool:
    """Of a linear layer."""
    return isinstance(row, list) and [isinstance(value, int) for value in row] == [True] * 4 + [False] and isinstance(row[4], str)


def _differences(name: str, mine: Any, other: Any, where: str) -> Iterator[str]:
    """where: what `other` is of."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*mine, *other]):
            yield from _differences(f"{name} {key}".strip(), mine.get(key), other.get(key), where)
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for number, pair in enumerate(zip(mine, other, strict=True), start=1):
            yield from _differences(f"{name} {number}", *pair, where)
    elif mine != other:
        yield f"{name} is {_shown(mine)} in the state and {_shown(other)} in the {where}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} values" if value else "none"
    return "none" if value is None else f"{value!s:.24}"
