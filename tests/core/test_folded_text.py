"""The zero rows of a text, folded: the same velocities and videos up to rounding, and nothing left on the network."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from magcache_run import SETTINGS, flat_table
from tiny import normal, relative_error
from torch import Tensor

from fastvideo_core import Conditioning, Guidance, GuidanceSettings, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.attention import AttendingExperts, AttentionSettings
from fastvideo_core.attention.folding import FoldedText, weights
from fastvideo_core.step_cache import CachedExperts, MagCache
from fastvideo_core.wan import WanExperts, installed

CPU = torch.device("cpu")
VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
TOLERANCE = 2e-6
"""Relative L2 error in float32 after 20 steps; measured 2e-7 to 6e-7."""


def request(steps: int = 20, mode: str = "batched", **changes: object) -> SamplingRequest:
    settings = {"steps": steps, "shift": 5.0, "guidance_scale": 4.0, "seed": 1, "guidance": GuidanceSettings(mode=mode)}
    return SamplingRequest(**(settings | changes))  # type: ignore[arg-type]


def video(asked: SamplingRequest, experts: WanExperts | AttendingExperts | CachedExperts, condition: Conditioning) -> Tensor:
    shape = tiny.SHAPE_48 if condition.first_frame is not None else tiny.SHAPE
    guidance = Guidance(asked.plan(), asked.guidance)
    return list(generate(asked, experts, condition, seeded_noise(shape, 1), guidance))[-1].latents


def context_rows(network: WanTransformer3DModel) -> list[int]:
    """Filled with the rows of text that each call of the network reads."""
    rows: list[int] = []
    network.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    return rows


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@every_variant
def test_twenty_steps_equal_those_over_all_512_rows(variant: tiny.Variant, mode: str) -> None:
    network, condition = variant.network(0), variant.conditioning
    experts = WanExperts({"single": network}, condition, variant.shape, CPU, CPU)
    asked, rows, shape = request(mode=mode), context_rows(network), variant.shape
    guidance = Guidance(asked.plan(), asked.guidance)
    folded = list(generate(asked, experts, condition, seeded_noise(shape, 1), guidance))[-1].latents
    # 120 and 300 real rows; both branches read as many as the longer one needs, so that a cache may go from one to two.
    assert set(rows) == {304}
    rows.clear()
    guidance = Guidance(asked.plan(), asked.guidance)
    full = list(generate(asked, replace(experts, fold_text=False), condition, seeded_noise(shape, 1), guidance))[-1].latents
    assert set(rows) == {512}
    assert 0 < relative_error(folded, full) <= TOLERANCE


@pytest.mark.parametrize("real", [0, 1, 14, 15, 100, 494])
def test_any_number_of_real_rows_folds_to_what_float64_gives_over_all(real: int) -> None:
    text = normal((2, 512, tiny.TEXT_DIM), 3)
    text[0, real:], text[1, real // 2 :] = 0, 0
    condition, network = Conditioning(positive=text[:1], negative=text[1:]), tiny.t2v()
    experts = tiny.experts({"single": network}, condition)
    asked = request(2)
    fold = experts.text("single")
    assert fold is not None and real + 2 <= fold.rows < 512 and fold.rows % 16 == 0
    doubled = replace(tiny.experts({"single": tiny.t2v().double()}, condition), fold_text=False)
    # Of the two it is the full text that rounds more: up to 2.4e-6, summing hundreds of equal terms.
    assert relative_error(video(asked, experts, condition), video(asked, doubled, condition)) <= 2.5e-6


def test_a_text_without_zero_rows_is_read_as_it_is() -> None:
    text = normal((1, 512, tiny.TEXT_DIM), 3)
    assert FoldedText.of([text], torch.float32, CPU) is None
    experts = tiny.experts({"single": tiny.t2v()}, Conditioning(positive=text))
    assert experts.text("single") is None
    asked = request(1, guidance_scale=1.0)
    assert torch.equal(
        video(asked, experts, experts.conditioning), video(asked, replace(experts, fold_text=False), experts.conditioning)
    )


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-7), (torch.float16, 5e-5), (torch.bfloat16, 6e-4)])
def test_two_biases_weigh_what_all_left_out_rows_do(dtype: torch.dtype, error: float) -> None:
    for count in range(2, 513):
        first, second = weights(count, dtype).double().tolist()
        assert math.exp(first) + math.exp(second) == pytest.approx(count, rel=error)


def test_in_bfloat16_folding_adds_less_than_rounding_does() -> None:
    condition, exact = tiny.conditioning(), tiny.t2v()
    half = tiny.experts({"single": tiny.t2v().to(torch.bfloat16)}, condition)
    asked = request(1)
    reference = video(asked, tiny.experts({"single": exact}, condition), condition)
    folded, full = video(asked, half, condition), video(asked, replace(half, fold_text=False), condition)
    assert relative_error(folded, reference) < 1.2 * relative_error(full, reference)


def test_processors_are_back_after_a_phase_and_after_an_interrupt() -> None:
    network, (phase,) = tiny.i2v_clip(), request(1).plan().phases
    experts = tiny.experts({"single": network}, VARIANTS["I2V with CLIP"].conditioning)
    modules = [module for block in network.blocks for module in (block.attn1, block.attn2)]
    before = [module.processor for module in modules]
    with pytest.raises(KeyboardInterrupt), experts.active(phase) as denoiser:
        assert denoiser.text is not None and denoiser.text.rows == 304
        assert not any(module.processor is own for module, own in zip(modules, before, strict=True))
        raise KeyboardInterrupt
    assert all(module.processor is own for module, own in zip(modules, before, strict=True))


def chosen(network: WanTransformer3DModel) -> None:
    network.blocks[0].attn2.processor._attention_backend = "flash"


def subclassed(network: WanTransformer3DModel) -> None:
    processor = network.blocks[-1].attn2.processor
    network.blocks[-1].attn2.processor = type("Own", (type(processor),), {})()


@pytest.mark.parametrize("change", [chosen, subclassed])
def test_cross_attention_that_was_changed_reads_all_rows(change: Callable[[WanTransformer3DModel], None]) -> None:
    network = tiny.t2v()
    experts = tiny.experts({"single": network}, tiny.conditioning())
    assert experts.text("single") is not None
    change(network)
    assert experts.text("single") is None


def test_diffusers_backend_of_the_whole_process_is_left_to_work() -> None:
    experts = tiny.experts({"single": tiny.t2v()}, tiny.conditioning())
    with attention_backend("_native_math"):
        assert experts.text("single") is None
    assert experts.text("single") is not None


def test_a_stack_that_was_put_in_before_reads_all_rows() -> None:
    network = tiny.t2v()
    experts = tiny.experts({"single": network}, tiny.conditioning())
    blocks = network.blocks

    def stack(x: Tensor, *rest: Tensor) -> Tensor:
        for block in blocks:
            x = block(x, *rest)
        return x

    with installed(network, stack):
        assert experts.text("single") is None


@pytest.mark.parametrize("kind", ["T2V", "I2V with CLIP"])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "sdpa_math"])
def test_chosen_backends_take_the_folded_text(kind: str, backend: str) -> None:
    variant = VARIANTS[kind]
    network, condition = variant.network(0), variant.conditioning
    experts, rows = tiny.experts({"single": network}, condition), context_rows(network)
    asked = request(4)
    attended = AttendingExperts(experts, AttentionSettings(cross_attention=backend))
    out = video(asked, attended, condition)
    assert set(rows) == {304}
    assert relative_error(out, video(asked, replace(experts, fold_text=False), condition)) <= TOLERANCE


def test_a_backend_without_bias_that_was_asked_for_is_not_refused_for_the_fold() -> None:
    experts = tiny.experts({"single": tiny.t2v()}, tiny.conditioning())
    with pytest.raises(RequestError) as refused:
        AttendingExperts(experts, AttentionSettings(cross_attention="sageattention_1"))
    assert "needs the package" in str(refused.value) and "bias" not in str(refused.value)


def test_a_step_cache_goes_with_it() -> None:
    condition, asked = tiny.conditioning(), request(12)
    videos = []
    for fold in (True, False):
        schedule = asked.plan()
        cache = MagCache(schedule, flat_table(schedule), SETTINGS)
        experts = replace(tiny.experts({"single": tiny.t2v()}, condition), fold_text=fold)
        videos.append(video(asked, CachedExperts(experts, schedule, cache), condition))
        assert 0 < cache.report().phases[0].computed < schedule.steps
    assert 0 < relative_error(*videos) <= TOLERANCE
