"""What is not one whole generation of the engine's door: states, LoRAs, and ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from unittest import mock

import torch
from engine_door import ENGINE, conditioning, model_of, rehearsed, size_of, taken, without_values
from named_waits import BEGINNING, LOADING, RANKS, STATES, VALUES
from safetensors.torch import save_file

from fastvideo_core import SamplingRequest, WanModel, apply_lora
from fastvideo_core.guidance import BOTH
from fastvideo_core.parallel import Layout, joined
from fastvideo_core.wan import identity
from fastvideo_core.wan.ranked import PhaseOpening, RankExperts
from fastvideo_core.wan.variants import VARIANTS
from tools.simulated import SimulatedGPU, Waits, simulated
from tools.simulated.checkpoints import TrueSize

ROW = VARIANTS["wan2.1_t2v_14B"]


@contextmanager
def watched() -> Iterator[tuple[SimulatedGPU, Waits]]:
    with simulated() as gpu, Waits([ENGINE], VALUES) as waits, waits.synchronizing(), without_values():
        yield gpu, waits


def test_a_generation_that_goes_on_from_a_state_waits_where_it_begins() -> None:
    request = SamplingRequest(steps=4, shift=ROW.shift, guidance_scale=ROW.guidance_scale, solver="unipc")
    with watched() as (gpu, waits), mock.patch.object(identity, "weights_digest", lambda weights: "0"):
        model, given = model_of(ROW, gpu, 2, torch.bfloat16), conditioning(TrueSize.of(ROW))
        first = model.generate(request, given, size_of(ROW))
        list(islice(first, 2))
        taken(waits)
        state = first.state()
        assert {wait.where for wait in taken(waits)} <= STATES.keys()
        first.close()
        rest = model.generate(request, given, size_of(ROW), state=state)
        taken(waits)
        found = [{wait.where for wait in taken(waits)} for _ in islice(rest, 2)]
        rest.close()
    assert found[0] <= {*BEGINNING, *LOADING, *STATES} and found[1] == set()


def test_a_lora_computes_where_the_weights_are_and_in_their_dtype(tmp_path: Path) -> None:
    dim, layer = ROW.dim, "diffusion_model.blocks.0.self_attn.q"
    weights = {f"{layer}.lora_A.weight": torch.ones(4, dim), f"{layer}.lora_B.weight": torch.ones(dim, 4)}
    save_file(weights, tmp_path / "lora.safetensors")

    def prepare(model: WanModel) -> None:
        apply_lora(model.transformers["single"], tmp_path / "lora.safetensors")

    seen = rehearsed(ROW.name, prepare=prepare, layers=2, steps=2)
    assert seen.waits[1] == []
    assert seen.flops[torch.bfloat16] > 0.999 * sum(seen.flops.values())


def test_a_rank_alone_gives_its_velocities_to_the_parent(tmp_path: Path) -> None:
    """In the parent's process the latents are on the CPU: they come and go once per call."""
    schedule = SamplingRequest(steps=4, shift=ROW.shift, guidance_scale=ROW.guidance_scale).plan()
    size = TrueSize.of(ROW)
    with watched() as (gpu, waits), joined(Layout(), 0, "") as mesh:
        experts = model_of(ROW, gpu, 2, torch.bfloat16).transformers
        rank = RankExperts(experts, mesh, torch.device("cuda"), torch.device("cpu"))
        rank.load("single")
        (phase,) = schedule.phases
        rank.open(PhaseOpening(schedule=schedule, phase=phase, conditioning=conditioning(size), latent_shape=size.shape))
        assert {wait.where for wait in taken(waits)} <= {*LOADING, *BEGINNING}
        for sigma in schedule.sigmas[:2]:
            velocities = rank.call(torch.zeros(size.shape), sigma, BOTH)
            assert velocities is not None and {(each.dtype, each.device.type) for each in velocities} == {(torch.float32, "cpu")}
            assert {wait.where for wait in taken(waits)} <= RANKS.keys()
        account = rank.close()
        rank.offload()
    assert account is not None and account.peak_bytes
