"""Networks that read two timesteps: the one of the latents, and the one that the step leads to. Their velocity is the mean one on
the way there (AnyFlow, arXiv 2605.13724), so that any step may be a long one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import number, one_of
from ..errors import LoadError, RequestError
from ..schedule import TIMESTEPS, Schedule

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

KIND = "AnyFlowTransformer3DModel"
"""Diffusers' class of such a network. All of it but the embedding of time is Wan's, under the same names."""
READINGS = ("r", "t-r")
"""What the second embedding reads: where the step leads, or how far that is."""
SOLVERS = ("euler", "euler_float64")


def reads_two_timesteps(transformer: "WanTransformer3DModel") -> bool:
    return hasattr(transformer.condition_embedder, "delta_embedder")


def make_flow_map(network: "WanTransformer3DModel", config: Mapping[str, Any], where: str) -> None:
    """Gives a network, whose weights are still to come, the embedding of two timesteps.

    Args:
        config: of diffusers' class. where: the file that it is from.

    Raises:
        LoadError: it is of a network that is not Wan's text-to-video but for this.
    """
    from .flow_map_embedding import FlowMapEmbedding

    if config.get("image_dim") is not None:
        raise LoadError(f"{where} has image_dim, and AnyFlow is read here for text-to-video alone. Give such a folder.")
    gate, reading = config.get("gate_value", 0.25), config.get("deltatime_type", "r")
    try:
        gate = number("gate_value", gate, "it is the second timestep's share.")
        one_of("deltatime_type", reading, READINGS)
    except RequestError as error:
        raise LoadError(f"{where}: {error} Download the file again.") from error
    sizes = network.config
    dim = sizes.num_attention_heads * sizes.attention_head_dim
    with torch.device("meta"):
        network.condition_embedder = FlowMapEmbedding(dim, sizes.freq_dim, sizes.text_dim, gate, reading == "t-r")


def check_solver(transformers: Mapping[str, "WanTransformer3DModel"], solver: str) -> None:
    """Raises RequestError where a solver takes a mean velocity for that of one moment."""
    for expert, transformer in transformers.items():
        if reads_two_timesteps(transformer) and solver not in SOLVERS:
            raise RequestError(
                f"solver is {solver}, and the {expert} expert (AnyFlow) gives the mean velocity of the whole step, which leads "
                f"straight to the next level: set solver to {SOLVERS[0]}."
            )


def check_told(transformer: "WanTransformer3DModel", schedule: Schedule | None, expert: str) -> None:
    """Raises RequestError where it is not known which step leads where."""
    if schedule is None and reads_two_timesteps(transformer):
        raise RequestError(
            f"The {expert} expert (AnyFlow) reads where a step leads, which this kind of run does not tell it: use "
            "WanModel.generate in one process."
        )


def two_timesteps(schedule: Schedule, sigma: float, rows: int, device: torch.device) -> Tensor:
    """(2 * rows,): of `rows` latents of noise level `sigma`, and where the step leads them."""
    after = schedule.sigmas[schedule.step_at(sigma) + 1]
    return torch.cat([torch.full((rows,), level * TIMESTEPS, device=device) for level in (sigma, after)])
