"""Calibration: what is measured at the seam of one dense generation, and that the table it makes is used."""

import math
from pathlib import Path

import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fastvideo_core import Guidance, GuidanceSettings, NumericsError, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.guidance import BOTH, Branch
from fastvideo_core.step_cache import (
    CachedExperts,
    Calibration,
    MagCache,
    MagCacheSettings,
    RatioTable,
    calibrate,
    plan_magcache,
    read_table,
    weights_hash,
)
from fastvideo_core.step_cache.calibration import RatioMeter, step_ratio
from fastvideo_core.wan.loading import apply_lora

NO_REST = (torch.empty(0), torch.empty(0), (torch.empty(0), torch.empty(0)))


def request(steps: int = 6, guidance_scale: float = 5.0, **changes: object) -> SamplingRequest:
    settings = {name: changes.pop(name) for name in ("mode", "gate") if name in changes}
    return SamplingRequest(
        steps=steps, shift=5.0, guidance_scale=guidance_scale, guidance=GuidanceSettings(**settings), solver="euler", **changes
    )


def calibrated(asked: SamplingRequest, networks: dict[str, WanTransformer3DModel], **conditions: bool) -> RatioTable:
    shape = tiny.SHAPE_48 if conditions else tiny.SHAPE
    condition = tiny.conditioning(**conditions)
    return calibrate(asked, tiny.experts(networks, condition, shape), condition, seeded_noise(shape, asked.seed))


def test_step_ratio_of_vectors_worked_out_by_hand() -> None:
    # Tokens (3, 4) -> (6, 8): ratio 2, cos 1. (1, 0) -> (0, 1): ratio 1, cos 0. Mean 1.5, deviation 0.5, distance 0.5.
    previous = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    residual = torch.tensor([[[6.0, 8.0], [0.0, 1.0]]])
    assert step_ratio(residual, previous) == pytest.approx((1.5, 0.5, 0.5))


def test_the_mean_is_over_the_tokens_ratios_and_not_of_the_norms() -> None:
    # Ratios 10 and 1: their mean is 5.5, while the norms' mean goes from 5.5 to 10.
    previous, residual = torch.tensor([[[1.0], [10.0]]]), torch.tensor([[[10.0], [10.0]]])
    assert step_ratio(residual, previous).ratio == 5.5


@pytest.mark.parametrize("calls", [[BOTH], [("positive",), ("negative",)]], ids=["together", "apart"])
def test_the_meter_measures_each_branch_against_its_own_last_step(calls: list[tuple[Branch, ...]]) -> None:
    # Blocks that add k times their input give residuals k * x: positive 1, 2, 1 and negative 1, 1, 3.
    meter, factors = RatioMeter(), {"positive": (1.0, 2.0, 1.0), "negative": (1.0, 1.0, 3.0)}
    added: list[Tensor] = []
    stack = meter.wrap([lambda x, *rest: x + added.pop()])
    for step in range(3):
        for branches in calls:
            added.append(torch.cat([torch.full((2, 1, 1), factors[branch][step]) for branch in branches]))
            meter.begin(step, branches)
            stack(torch.ones(2 * len(branches), 1, 1), *NO_REST)
    measured = {branch: [row.ratio for row in rows] for branch, rows in meter.measured.items()}
    assert measured == {"positive": [1, 2, 0.5], "negative": [1, 1, 3]}


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_a_table_holds_the_ratios_of_the_residuals_of_the_network(mode: str) -> None:
    """Against residuals taken by hooks on the first and the last block."""
    network, asked = tiny.t2v(), request(mode=mode)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    network.blocks[-1].register_forward_hook(lambda module, args, out: outputs.append(out))
    table = calibrated(asked, {"single": network})
    residuals = torch.cat([after - before for before, after in zip(inputs, outputs, strict=True)])  # positive, negative, ...
    for branch, own in zip(BOTH, (residuals[0::2], residuals[1::2]), strict=True):
        norms = own.norm(dim=-1)
        expected = [1.0, *(norms[1:] / norms[:-1]).mean(dim=-1).tolist()]
        assert table.phases[0].ratios[branch] == pytest.approx(expected, abs=1e-5)
        assert table.phases[0].deviation[branch][1:] == pytest.approx(
            (norms[1:] / norms[:-1]).std(dim=-1, correction=0).tolist(), abs=1e-5
        )
        cosines = torch.nn.functional.cosine_similarity(own[1:], own[:-1], dim=-1).mean(dim=-1)
        assert table.phases[0].cosine_distance[branch] == pytest.approx([0.0, *(1 - cosines).tolist()], abs=1e-5)


def test_calibrating_does_not_change_the_generation() -> None:
    asked, condition = request(), tiny.conditioning()
    schedule, calibration = asked.plan(), Calibration(asked.plan())
    experts = CachedExperts(tiny.experts({"single": tiny.t2v()}, condition), schedule, calibration)
    steps = generate(asked, experts, condition, seeded_noise(tiny.SHAPE, 0), Guidance(schedule, asked.guidance))
    measured = list(steps)[-1].latents
    assert torch.equal(measured, tiny.run(asked, {"single": tiny.t2v()}, condition)[0][-1].latents)


def test_two_experts_are_measured_by_themselves() -> None:
    networks = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    asked = request(10, low_noise_guidance_scale=3.0, boundary=0.8)
    table = calibrated(asked, networks)
    assert [(phase.expert, len(phase.sigmas)) for phase in table.phases] == [("high_noise", 6), ("low_noise", 4)]
    assert all(phase.ratios[branch][0] == 1 for phase in table.phases for branch in BOTH)
    assert (table.steps, table.shift, table.boundary) == (10, 5.0, 0.8)


def test_a_given_first_frame_with_its_own_timesteps_is_measured() -> None:
    table = calibrated(request(), {"single": tiny.ti2v()}, first_frame=True)
    assert len(table.phases[0].ratios["positive"]) == 6


def test_without_guidance_the_positive_branch_alone_is_measured_and_the_negative_one_refused() -> None:
    table = calibrated(request(9, 1.0), {"single": tiny.t2v()})
    assert set(table.phases[0].ratios) == {"positive"}
    settings = MagCacheSettings(threshold=0.1, max_skips=2)
    assert plan_magcache(request(9, 1.0).plan(), table, settings, True).phases[0].branches == ["positive"]
    with pytest.raises(RequestError, match=r"nothing about the negative branch .* guidance scale other than 1"):
        MagCache(request(9).plan(), table, settings)


def test_own_noise_levels_have_no_shift() -> None:
    levels = (1.0, 0.9, 0.6, 0.3, 0.0)
    table = calibrated(request(4, sigmas=levels), {"single": tiny.t2v()})
    assert (table.shift, table.sigmas) == (None, levels)
    with pytest.raises(RequestError, match="measured without a shift: use mode resampled"):
        plan_magcache(request(4).plan(), table, MagCacheSettings(threshold=0.1, max_skips=2, mode="official"), True)


def test_a_table_from_a_file_serves_the_model_that_it_was_measured_on(tmp_path: Path) -> None:
    asked, networks = request(10), {"single": tiny.t2v()}
    table = calibrated(asked, networks)
    file = tmp_path / f"{weights_hash(networks)}.json"
    file.write_text(table.json(), "utf-8")
    assert read_table(file) == table
    assert (table.name, table.source["dtype"], table.source["latents"]) == (file.stem, "float32", "1x16x3x4x6")
    done = plan_magcache(asked.plan(), read_table(file), MagCacheSettings(threshold=1.0, max_skips=3), True)
    assert done.phases[0].count("positive", "skip") > 0


def test_a_gate_is_refused_before_anything_runs() -> None:
    with pytest.raises(RequestError, match=r"gate is 0.5: a calibration measures both branches in every step"):
        calibrated(request(gate=0.5), {"single": tiny.t2v()})


def test_an_interrupted_generation_makes_no_table_and_frees_its_residuals() -> None:
    asked, condition = request(), tiny.conditioning()
    schedule, calibration = asked.plan(), Calibration(asked.plan())
    experts = CachedExperts(tiny.experts({"single": tiny.t2v()}, condition), schedule, calibration)
    steps = generate(asked, experts, condition, seeded_noise(tiny.SHAPE, 0), Guidance(schedule, asked.guidance))
    next(steps)
    (meter,) = calibration._meters.values()
    assert meter._residuals
    steps.close()
    assert not meter._residuals
    with pytest.raises(RequestError, match="in each of the 6 steps of the single expert; measured: positive 1, negative 1"):
        calibration.phases()


def test_residuals_that_are_zero_are_refused() -> None:
    network = tiny.t2v()
    for block in network.blocks:
        block.forward = lambda x, *rest: x
    with pytest.raises(NumericsError, match="residuals are zero or not finite"):
        calibrated(request(), {"single": network})


def test_the_hash_is_of_the_weights_and_of_nothing_else() -> None:
    same = weights_hash({"single": tiny.t2v(0)})
    assert same == weights_hash({"single": tiny.t2v(0)})
    changed = tiny.t2v(0)
    changed.blocks[1].ffn.net[2].weight.mul_(1.001)
    assert len({same, weights_hash({"single": changed}), weights_hash({"single": tiny.t2v(1)})}) == 3
    assert weights_hash({"single": tiny.t2v(0).bfloat16()}) == same
    pair = {"high_noise": tiny.t2v(0), "low_noise": tiny.t2v(1)}
    assert weights_hash(pair) == weights_hash(dict(reversed(pair.items())))
    assert weights_hash(pair) == "_".join(weights_hash({"single": tiny.t2v(seed)}) for seed in (0, 1))


@pytest.mark.parametrize("kind", ["of every part", "of the patch embedding", "two of them", "peft's adapter"])
def test_a_lora_does_not_change_the_hash(kind: str, tmp_path: Path) -> None:
    network = tiny.i2v_clip()
    expected = weights_hash({"single": network})
    if kind == "peft's adapter":
        peft = pytest.importorskip("peft", reason="peft (optional)")
        network.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "net.2"], use_dora=True))
    else:
        lora = files.lightx2v_lora(network)  # pairs, and differences of weights, norms and biases
        if kind == "of the patch embedding":
            down, up = files.low_rank((24, 36, 1, 2, 2), 7)
            lora = {f"diffusion_model.patch_embedding.lora_{end}.weight": part for end, part in (("down", down), ("up", up))}
        file = files.save(lora, tmp_path / "lora.safetensors", None)
        for _ in range(2 if kind == "two of them" else 1):
            assert apply_lora(network, file, 0.7).layers
    assert weights_hash({"single": network}) == expected


def test_the_hash_reads_float8_and_half_precision() -> None:
    network = tiny.t2v().bfloat16()
    network.proj_out.weight.data = network.proj_out.weight.data.to(torch.float8_e4m3fn)
    assert len(weights_hash({"single": network})) == 16


def test_all_numbers_of_a_table_are_finite_and_five_digits_long() -> None:
    table = calibrated(request(), {"single": tiny.t2v()})
    for phase in table.phases:
        for rows in (phase.ratios, phase.deviation, phase.cosine_distance):
            assert all(math.isfinite(value) and value == round(value, 5) for row in rows.values() for value in row)
