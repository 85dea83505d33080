"""Where memory is not enough: everything is put back, errors say what helps, and guidance mode auto goes on with two calls."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import tiny
import tiny_model
import torch
from test_one_generation import REQUEST, SETTINGS
from tiny_model import model_of, small
from torch import Tensor, nn

from fastvideo_core import CapacityError, GuidanceSettings, ImageEncoder, SamplingRequest, TextEncoder, VideoVAE, plan
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.generation import Generation
from fastvideo_core.wan.memory import free_bytes, is_out_of_memory

CPU, META = torch.device("cpu"), torch.device("meta")
AUTO = replace(REQUEST, guidance=GuidanceSettings(mode="auto"))
SEQUENTIAL = replace(REQUEST, guidance=GuidanceSettings(mode="sequential"))


class TooLarge(nn.Linear):
    """Moves anywhere but to the CPU, which stands for a device that is full; "meta" stands for the one to offload to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TooLarge":
        if fn(torch.empty(0)).device == CPU:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super()._apply(fn, recurse)  # type: ignore[return-value]


def filled(network: nn.Module) -> nn.Module:
    """The network with a last layer that does not fit."""
    network.add_module("too_large", TooLarge(1, 1))
    return network


def places(network: nn.Module) -> set[str]:
    return {parameter.device.type for parameter in network.parameters()}


def test_weights_that_do_not_fit_are_all_put_back_and_the_error_says_what_helps() -> None:
    network, (phase,) = filled(tiny.t2v()), plan((1.0, 0.0), 5.0).phases
    experts = WanExperts({"single": network}, tiny.conditioning(), tiny.SHAPE, CPU, META)
    words = r"weights of WanTransformer3DModel, 0\.00 GiB, do not fit .*memory of cpu\..*group offloading.*fp8_scaled"
    with pytest.raises(CapacityError, match=words), experts.loaded(phase.expert):
        pass
    assert places(network) == {"meta"}
    del network.too_large
    network.to_empty(device="cpu")
    with experts.loaded(phase.expert):
        assert places(network) == {"cpu"}, "and it may be tried again"


def vae_that_does_not_fit() -> Any:
    return VideoVAE(filled(tiny.vae()), CPU, META)


def text_encoder_that_does_not_fit() -> Any:
    encoder = model_of("t2v").text_encoder
    return TextEncoder(filled(tiny_model.umt5()), encoder.tokenizer, device=CPU, offload_device=META)


def image_encoder_that_does_not_fit() -> Any:
    return ImageEncoder(filled(tiny_model.clip()), tiny_model.CLIPImageProcessor(), CPU, META)


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (vae_that_does_not_fit, lambda vae: vae.decode(tiny.normal(tiny.SHAPE, 1))),
        (vae_that_does_not_fit, lambda vae: vae.encode(torch.zeros(1, 3, 5, 32, 32))),
        (text_encoder_that_does_not_fit, lambda encoder: encoder.encode(["a cat"])),
        (image_encoder_that_does_not_fit, lambda encoder: encoder.encode(torch.zeros(1, 3, 32, 32))),
    ],
    ids=["VAE decodes", "VAE encodes", "text encoder", "image encoder"],
)
def test_so_it_is_with_the_other_networks(make: Callable[[], Any], use: Callable[[Any], object]) -> None:
    part = make()
    with pytest.raises(CapacityError, match=r"The weights of \w+, .* do not fit .*memory of cpu\..*smaller dtype.*on the CPU"):
        use(part)
    assert places(part.network) == {"meta"}


def test_a_video_that_is_too_large_to_decode_leaves_nothing_behind() -> None:
    vae = VideoVAE(tiny.vae())

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = vae.network.decoder.norm_out.register_forward_pre_hook(full)
    with pytest.raises(CapacityError, match=r"Decoding 3 latent frames of 6 x 4 does not fit .*tiling=True"):
        vae.decode(tiny.normal(tiny.SHAPE, 1))
    assert not any(isinstance(kept, Tensor) for kept in vae.network._feat_map)
    hook.remove()
    assert torch.equal(vae.decode(tiny.normal(tiny.SHAPE, 1)), VideoVAE(tiny.vae()).decode(tiny.normal(tiny.SHAPE, 1)))


@contextmanager
def full_for_two(network: nn.Module, block: int = 1, after: int = 0) -> Iterator[list[int]]:
    """Calls over both branches run out of memory in one block, behind the first `after` of them. Yields the batch of each call;
    the tokens of a call that failed must be gone when the next one comes."""
    batches: list[int] = []
    seen: list[weakref.ref[Tensor]] = []

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        assert not any(tokens() is not None for tokens in seen)
        batches.append(args[0].shape[0])
        if args[0].shape[0] > 1 and batches.count(2) > after:
            seen.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    hook = network.blocks[block].register_forward_pre_hook(look)
    gc.disable()
    try:
        yield batches
    finally:
        gc.enable()
        hook.remove()


def run(asked: SamplingRequest, options: dict[str, Any]) -> Generation:
    model = model_of("t2v")
    generation = model.generate(asked, model.condition("a cat", "blurry", small(model)), small(model), **options)
    list(generation)
    return generation


EAGER = {name: options for name, options in SETTINGS.items() if name != "compiled"}


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("options", EAGER.values(), ids=list(EAGER))
def test_auto_that_runs_out_of_memory_goes_on_with_two_calls_and_says_so(options: dict[str, Any], block: int) -> None:
    with full_for_two(model_of("t2v").transformers["single"], block) as batches:
        generation = run(AUTO, options)
    assert batches[0] == 2 and set(batches[1:]) == {1}
    expected = run(SEQUENTIAL, options)
    assert torch.equal(generation.latents, expected.latents)
    report = generation.report()
    assert "guidance: sequential (one call for both ran out of memory in step 1, though both branches need about" in report.text()
    assert [cache.phases for cache in report.caches] == [cache.phases for cache in expected.report().caches]
    assert [cache.bypassed for cache in report.caches] == [0] * len(report.caches)


@pytest.mark.parametrize("options", EAGER.values(), ids=list(EAGER))
def test_auto_that_runs_out_of_memory_later_goes_on_too(options: dict[str, Any]) -> None:
    with full_for_two(model_of("t2v").transformers["single"], 1, after=1) as batches:
        generation = run(AUTO, options)
    assert batches[:2] == [2, 2] and set(batches[2:]) == {1}
    assert generation.latents.isfinite().all() and "ran out of memory in step" in generation.report().text()
    assert [cache.bypassed for cache in generation.report().caches] == [0] * len(generation.report().caches)


def test_batched_guidance_that_runs_out_of_memory_is_an_error_and_one_branch_alone_names_offloading() -> None:
    network = model_of("t2v").transformers["single"]
    with full_for_two(network), pytest.raises(CapacityError, match=r"Both branches .*Use guidance mode sequential or auto"):
        run(REQUEST, {})

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = network.blocks[1].register_forward_pre_hook(full)
    with pytest.raises(CapacityError, match="One transformer call does not fit") as told:
        run(AUTO, {})
    hook.remove()
    assert "group offloading" in str(told.value) and "auto" not in str(told.value)
    assert torch.equal(run(REQUEST, {}).latents, run(REQUEST, {}).latents)


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes.",
        "MPS backend out of memory (MPS allocated: 18.13 GiB, other allocations: 1.10 MiB, max allowed: 18.13 GiB).",
        "Invalid buffer size: 38.07 GiB",
        "Could not allocate tensor with 4915840 bytes. There is not enough GPU video memory available!",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_every_devices_words_for_no_memory_are_known(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


def test_other_errors_are_not_taken_for_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("XPU out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


GIB = 2**30


def test_free_memory_of_apples_devices_is_what_metal_and_the_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"recommended_max_memory": 12 * GIB, "current_allocated_memory": 2 * GIB, "driver_allocated_memory": 3 * GIB}
    for name, value in figures.items():
        monkeypatch.setattr(torch.mps, name, lambda value=value: value)
    available = {"now": 100 * GIB}
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": available["now"]}))
    assert free_bytes(torch.device("mps")) == 10 * GIB
    available["now"] = 4 * GIB
    assert free_bytes(torch.device("mps")) == 5 * GIB, "what others leave, and what torch holds in reserve"


def test_free_memory_of_intels_devices_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"mem_get_info": (5 * GIB, 16 * GIB), "memory_reserved": 3 * GIB, "memory_allocated": 1 * GIB}
    for name, value in figures.items():
        monkeypatch.setattr(torch.xpu, name, lambda _, value=value: value)
    assert free_bytes(torch.device("xpu")) == 7 * GIB
