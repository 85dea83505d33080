"""Keys and values of the text in cross-attention: computed once per phase, bit-equal to computing them in every step."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from fastvideo_core import Guidance, GuidanceMode, GuidanceSettings, SamplingRequest, generate, group_offload, seeded_noise
from fastvideo_core.attention import AttendingExperts, AttentionSettings
from fastvideo_core.wan import WanExperts

VARIANTS = tiny.variants()
STEPS = 5


def request(mode: GuidanceMode, gate: float = 1.0, steps: int = STEPS) -> SamplingRequest:
    guidance = GuidanceSettings(mode=mode, gate=gate)
    return SamplingRequest(steps=steps, shift=5.0, guidance_scale=4.0, seed=1, guidance=guidance)


def video(asked: SamplingRequest, experts: WanExperts | AttendingExperts, variant: tiny.Variant) -> Tensor:
    guidance = Guidance(asked.plan(), asked.guidance)
    return list(generate(asked, experts, variant.conditioning, seeded_noise(variant.shape, 1), guidance))[-1].latents


def counted(network: WanTransformer3DModel) -> Counter[str]:
    """Filled with how often each projection of cross-attention runs."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., None]:
        return lambda *_: calls.update([name])

    for block in network.blocks:
        for name in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj"):
            if getattr(block.attn2, name) is not None:
                getattr(block.attn2, name).register_forward_hook(counting(name))
    return calls


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@pytest.mark.parametrize("kind", ["T2V", "I2V with CLIP", "FLF2V"])
def test_keys_and_values_are_computed_once_for_each_kind_of_call_and_change_no_bit(kind: str, mode: GuidanceMode) -> None:
    variant = VARIANTS[kind]
    network = variant.network(0)
    experts, calls, asked = tiny.experts({"single": network}, variant.conditioning), counted(network), request(mode)
    kept = video(asked, experts, variant)
    layers, branches = len(network.blocks), 1 if mode == "batched" else 2
    projections = ["to_k", "to_v"] + (["add_k_proj", "add_v_proj"] if kind != "T2V" else [])
    assert calls == dict.fromkeys(projections, layers * branches) | {"to_q": layers * branches * STEPS}
    calls.clear()
    assert torch.equal(video(asked, replace(experts, keep_keys=False), variant), kept)
    assert calls == dict.fromkeys([*projections, "to_q"], layers * branches * STEPS)


def test_a_gate_that_ends_guidance_goes_to_keys_of_the_positive_text_alone() -> None:
    variant = VARIANTS["T2V"]
    network = variant.network(0)
    experts, calls, asked = tiny.experts({"single": network}, variant.conditioning), counted(network), request("batched", 0.5)
    kept = video(asked, experts, variant)
    assert calls["to_k"] == 2 * len(network.blocks)
    assert torch.equal(kept, video(asked, replace(experts, keep_keys=False), variant))


def test_a_chosen_backend_keeps_them_too_unless_told_not_to() -> None:
    variant = VARIANTS["I2V with CLIP"]
    network = variant.network(0)
    experts, calls, asked = tiny.experts({"single": network}, variant.conditioning), counted(network), request("batched")
    videos = []
    for keep, times in ((True, 1), (False, STEPS)):
        calls.clear()
        settings = AttentionSettings(cross_attention="sdpa_math", keep_keys=keep)
        videos.append(video(asked, AttendingExperts(experts, settings), variant))
        assert calls["to_k"] == calls["add_k_proj"] == times * len(network.blocks)
    assert torch.equal(*videos)


def test_a_second_generation_computes_its_own() -> None:
    first = VARIANTS["T2V"]
    conditioning = replace(first.conditioning, positive=first.conditioning.positive.flip(-1))
    network, asked = first.network(0), request("batched")
    videos = [video(asked, tiny.experts({"single": network}, own), first) for own in (first.conditioning, conditioning)]
    assert tiny.relative_error(*videos) > 1e-3


def test_nothing_is_held_after_a_phase() -> None:
    variant = VARIANTS["T2V"]
    experts = tiny.experts({"single": variant.network(0)}, variant.conditioning)
    with experts.active(request("auto").plan().phases[0]) as denoiser:
        denoiser.predict(seeded_noise(variant.shape, 1), 0.8, ("positive",))
        assert denoiser.text is not None and denoiser.text.kept is not None
        kept = weakref.ref(denoiser.text.kept)
    del denoiser
    gc.collect()
    assert kept() is None


def test_the_memory_that_they_need_is_counted() -> None:
    variant, words = VARIANTS["I2V with CLIP"], []
    experts = tiny.experts({"single": variant.network(0)}, variant.conditioning)
    for keep in (True, False):
        with replace(experts, keep_keys=keep).active(request("auto").plan().phases[0]) as denoiser:
            denoiser.predict(seeded_noise(variant.shape, 1), 0.8, ("positive", "negative"))
            kept = denoiser.text.kept if denoiser.text is not None else None
            held = 0 if kept is None else sum(x.nbytes for pair in kept._kept.values() for x in pair)
            assert denoiser._keys_bytes() == held
            words.append(held)
    assert words == [2 * 2 * 2 * (304 + 257) * 24 * 4, 0]  # keys and values x blocks x branches x rows x dim x float32


def test_group_offloading_goes_together_with_it() -> None:
    variant, asked = VARIANTS["I2V with CLIP"], request("sequential")
    plain, offloaded = variant.network(0), variant.network(0)
    group_offload(offloaded, torch.device("cpu"), 1)
    videos = [video(asked, tiny.experts({"single": network}, variant.conditioning), variant) for network in (plain, offloaded)]
    assert torch.equal(*videos)


def test_compiled_blocks_compute_them_anew_and_are_compiled_once() -> None:
    variant = VARIANTS["T2V"]
    network, asked = variant.network(0), request("batched")
    experts = tiny.experts({"single": network}, variant.conditioning)
    plain, compiled = video(asked, experts, variant), CompileCounter()
    network.compile_repeated_blocks(fullgraph=True, backend=compiled)
    for _ in range(2):
        assert tiny.relative_error(video(asked, experts, variant), plain) < 1e-5
    assert compiled.frame_count == 1
