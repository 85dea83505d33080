"""Chosen attention on diffusers' networks: for one network at a time, self and cross apart, and gone afterwards."""

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from magcache_run import SETTINGS, flat_table, request
from tiny_model import model_of, small
from tiny_transformer import velocity_in_place
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from fastvideo_core import Guidance, RequestError, SamplingRequest, generate, group_offload, seeded_noise
from fastvideo_core.attention import (
    AttendingExperts,
    Attention,
    AttentionAccount,
    AttentionSettings,
    Choice,
    Situation,
    attending,
    exact_attention,
    prepare,
)
from fastvideo_core.step_cache import CachedExperts, MagCache
from fastvideo_core.wan import installed

KINDS = ("t2v", "i2v", "i2v_clip", "flf2v", "ti2v")
IMAGE_KINDS = ("i2v_clip", "flf2v")
HERE = Situation.on("cpu", torch.float32, 12)


def account_of(own: str, cross: str = "sdpa") -> AttentionAccount:
    return AttentionAccount.of(prepare(own, HERE), prepare(cross, HERE))


class Recorded:
    """A real attention that keeps the lengths it was called with."""

    def __init__(self) -> None:
        self.lengths: list[tuple[int, int]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        self.lengths.append((q.shape[1], k.shape[1]))
        return exact_attention(q, k, v, mask, scale).to(q.dtype)

    def attention(self) -> Attention:
        return Attention(Choice("recorded", "recorded", "as asked", {}), HERE, self)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_sdpa_is_diffusers_own_attention(kind: str) -> None:
    network = getattr(tiny, kind)()
    before = velocity_in_place(network)
    with attending(network, account_of("sdpa")):
        assert tiny.relative_error(velocity_in_place(network), before) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_another_backend_rounds_differently_and_is_gone_afterwards(kind: str) -> None:
    network = getattr(tiny, kind)()
    before = velocity_in_place(network)
    attributes = [(dict(vars(block.attn1)), dict(vars(block.attn2))) for block in network.blocks]
    account = account_of("sdpa_math", "sdpa_math")
    with attending(network, account):
        out = velocity_in_place(network)
    assert not torch.equal(out, before) and tiny.relative_error(out, before) < 1e-5
    layers = len(network.blocks)
    assert (account.self_attention.calls, account.network_calls) == (layers, 1)
    assert account.cross_attention.calls == layers * (2 if kind in IMAGE_KINDS else 1)
    assert torch.equal(velocity_in_place(network), before)
    assert [(dict(vars(block.attn1)), dict(vars(block.attn2))) for block in network.blocks] == attributes


def test_self_and_cross_attention_are_chosen_apart() -> None:
    network, own, cross = tiny.i2v_clip(), Recorded(), Recorded()
    with attending(network, AttentionAccount.of(own.attention(), cross.attention())):
        velocity_in_place(network)
    layers, tokens = len(network.blocks), 18
    assert own.lengths == [(tokens, tokens)] * layers
    assert sorted(cross.lengths) == sorted([(tokens, 512), (tokens, 257)] * layers)


def test_a_video_as_long_as_the_text_is_told_apart_too() -> None:
    network, own, cross = tiny.t2v(), Recorded(), Recorded()
    call = {
        "hidden_states": tiny.normal((1, 16, 2, 32, 32), 1),
        "timestep": torch.tensor([700.0]),
        "encoder_hidden_states": tiny.normal((1, 512, tiny.TEXT_DIM), 2),
    }
    with torch.no_grad(), attending(network, AttentionAccount.of(own.attention(), cross.attention())):
        network(**call)
    assert own.lengths == cross.lengths == [(512, 512)] * len(network.blocks)


def test_two_networks_with_two_backends_in_one_process() -> None:
    first, second = tiny.t2v(), tiny.t2v()
    plain = velocity_in_place(first)
    active = _AttentionBackendRegistry.get_active_backend()
    with (
        attending(first, account_of("sdpa_math", "sdpa_math")),
        attending(second, account_of("sdpa")),
    ):
        by_math, by_sdpa = velocity_in_place(first), velocity_in_place(second)
    assert tiny.relative_error(by_sdpa, plain) < 1e-6 and not torch.equal(by_math, by_sdpa)
    assert _AttentionBackendRegistry.get_active_backend() == active


def test_processors_are_back_after_an_interrupt() -> None:
    network = tiny.t2v()
    before = [block.attn1.processor for block in network.blocks]
    with pytest.raises(KeyboardInterrupt), attending(network, account_of("sdpa")):
        raise KeyboardInterrupt
    assert [block.attn1.processor for block in network.blocks] == before
    assert not network._forward_pre_hooks


def test_a_stack_goes_inside() -> None:
    network = tiny.t2v()
    before = velocity_in_place(network)
    blocks = network.blocks

    def stack(x: Tensor, *rest: Tensor) -> Tensor:
        for block in blocks:
            x = block(x, *rest)
        return x

    account = account_of("sdpa")
    with attending(network, account), installed(network, stack):
        assert tiny.relative_error(velocity_in_place(network), before) < 1e-6
    assert account.self_attention.calls == len(blocks)
    with installed(network, stack), pytest.raises(RequestError, match="choose the attention first"):
        attending(network, account_of("sdpa")).__enter__()


def test_a_second_choice_for_the_same_network_is_refused() -> None:
    network = tiny.t2v()
    second = attending(network, account_of("sdpa_math"))
    with (
        attending(network, account_of("sdpa")),
        pytest.raises(RequestError, match="processors of type AttentionProcessor already"),
    ):
        second.__enter__()


def test_group_offloading_and_fused_projections_go_together_with_it() -> None:
    network = tiny.i2v_clip()
    before = velocity_in_place(network)
    group_offload(network, torch.device("cpu"), 1)
    with attending(network, account_of("sdpa")):
        assert tiny.relative_error(velocity_in_place(network), before) < 1e-6
    fused = tiny.i2v_clip()
    fused.fuse_qkv_projections()
    with attending(fused, account_of("sdpa")):
        assert tiny.relative_error(velocity_in_place(fused), before) < 1e-5


def test_compiled_blocks_are_compiled_once_per_backend_and_not_counted() -> None:
    network: WanTransformer3DModel = tiny.t2v()
    before = velocity_in_place(network)
    compiled = CompileCounter()
    network.compile_repeated_blocks(fullgraph=True, backend=compiled)
    for _ in range(3):
        account = account_of("sdpa")
        with attending(network, account):
            assert torch.equal(velocity_in_place(network), before)
            assert torch.equal(velocity_in_place(network), before)
        assert (account.self_attention.calls, account.network_calls) == (0, 2)
    assert compiled.frame_count == 1
    assert "compiled blocks, which do not count in 2 of the network" in account.reports("single")[0].lines()[0]
    with attending(network, account_of("sdpa_math", "sdpa_math")):
        assert not torch.equal(velocity_in_place(network), before)
    assert compiled.frame_count == 2


def test_a_generation_reports_what_ran_for_each_expert() -> None:
    model = model_of("t2v two experts")
    size = small(model)
    request = SamplingRequest(steps=4, shift=5.0, guidance_scale=4.0, low_noise_guidance_scale=3.0, boundary=0.9, seed=1)
    conditioning = model.condition("a", "b", size)
    plain = model.generate(request, conditioning, size)
    attended = model.generate(
        request, conditioning, size, attention=AttentionSettings(self_attention="sdpa", cross_attention="sdpa_math")
    )
    for generation in (plain, attended):
        for _ in generation:
            pass
    assert tiny.relative_error(attended.latents, plain.latents) < 1e-5
    report = attended.report()
    assert plain.report().attention == ()
    parts = [(part.expert, part.part, part.backend) for part in report.attention]
    assert parts == [
        (expert, part, backend)
        for expert in ("high_noise", "low_noise")
        for part, backend in (("self-attention", "sdpa"), ("cross-attention", "sdpa_math"))
    ]
    for part in report.attention:
        steps = next(phase.steps for phase in report.phases if phase.expert == part.expert)
        assert (part.network_calls, part.calls) == (steps, steps * 2)
    assert "self-attention of the high-noise expert: sdpa (as asked), " in report.text()


def test_blocks_that_a_step_cache_skips_are_no_calls() -> None:
    asked, network, condition = request(), tiny.t2v(), tiny.conditioning()
    attending_experts = AttendingExperts(tiny.experts({"single": network}, condition), AttentionSettings())
    schedule = asked.plan()
    cache = MagCache(schedule, flat_table(schedule), SETTINGS)
    experts = CachedExperts(attending_experts, schedule, cache)
    guidance = Guidance(schedule, asked.guidance)
    list(generate(asked, experts, condition, seeded_noise(tiny.SHAPE, 1), guidance))
    computed = cache.report().phases[0].computed
    assert 0 < computed < schedule.steps
    own, cross = attending_experts.reports()
    assert (own.calls, own.network_calls) == (cross.calls, cross.network_calls) == (2 * computed, schedule.steps)


def test_a_backend_that_cannot_run_raises_before_any_step() -> None:
    model = model_of("t2v")
    size = small(model)
    request = SamplingRequest(steps=2, shift=5.0, guidance_scale=1.0, seed=1)
    with pytest.raises(RequestError, match=r"flash_attn_3 .* cannot run here"):
        model.generate(
            request, model.condition("a", None, size), size, attention=AttentionSettings(self_attention="flash_attn_3")
        )
