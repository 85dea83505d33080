"""Phases of every kind of file and network: a LoRA in the second phase, and a state in the middle that goes on bit by bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from phase_runs import Given, chained, run_phases, with_lora
from sampling import latent_of, relative_error
from test_attention import attended
from test_diffusers_model import load
from tiny_wan import random_weights
from torch import Tensor
from wan_files import KINDS, load_kind

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

NETWORKS = ["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"]


@pytest.fixture(scope="module")
def models(comfy: Any) -> Callable[..., Any]:
    """(kind, seed) -> MODEL of that kind of file."""
    loaded: dict[tuple[str, int], Any] = {}

    def make(kind: str, seed: int) -> Any:
        if (kind, seed) not in loaded:
            path = comfy.model_folder("diffusion_models") / f"phases_{kind.replace(' ', '_')}_{seed}.safetensors"
            loaded[kind, seed] = load_kind(path, kind, random_weights("t2v", seed))
        return loaded[kind, seed]

    return make


def three(host: Any, high: Any, low: Any) -> tuple[Given, Given, Given]:
    """Two steps, two steps and four."""
    return (high, 0.95, 4.0), (with_lora(host, high), 0.875, 1.0), (low, 0.0, 3.0)


def chain_of(given: tuple[Given, ...], kind: str = "t2v") -> Tensor:
    """The same as three of core's samplers."""
    parts = ((0, 2), (2, 4), (4, 8))
    return chained(*((model, *part, scale) for (model, _, scale), part in zip(given, parts, strict=True)), kind=kind)


def assert_goes_on(host: Any, given: tuple[Given, ...], whole: Tensor, kind: str = "t2v", **changes: Any) -> None:
    for done in (1, 2):
        run_phases(host, *given, kind=kind, stop_after_phase=done, save_state="kinds", **changes)
        resumed, report = run_phases(host, *given, kind=kind, resume_state="kinds.safetensors", **changes)
        assert torch.equal(resumed, whole) and report.first_step == (2, 4)[done - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_runs_as_a_chain_and_goes_on(comfy: Any, models: Any, kind: str) -> None:
    given = three(comfy, models(kind, 0), models(kind, 1))
    ours, report = run_phases(comfy, *given)
    assert [phase.steps for phase in report.phases] == [2, 2, 4]
    # The integer kinds turn what they read into integers too, of which rounding makes other ones.
    assert relative_error(ours, chain_of(given)) < (0.02 if kind.startswith("int") else 1e-5)
    plain, _ = run_phases(comfy, (given[0][0], 0.875, 4.0), (given[2][0], 0.0, 3.0))
    assert relative_error(ours, plain) > 1e-3
    assert torch.equal(run_phases(comfy, *given)[0], ours)
    assert_goes_on(comfy, given, ours)


def test_a_state_of_another_precision_is_refused(comfy: Any, models: Any) -> None:
    for kind, other in (("fp32", "bf16"), ("bf16", "fp16"), ("fp8", "scaled_fp8"), ("scaled_fp8", "fp8 e4m3"), ("fp32", "gguf")):
        run_phases(comfy, *three(comfy, models(kind, 0), models(kind, 1)), stop_after_phase=2, save_state="precision")
        for high, low in ((other, kind), (kind, other)):
            with pytest.raises(RequestError, match=r"weights (high_noise|low_noise).* in the state and .* in the model"):
                run_phases(comfy, *three(comfy, models(high, 0), models(low, 1)), resume_state="precision.safetensors")


def test_kinds_of_files_may_be_mixed(comfy: Any, models: Any) -> None:
    for high, low in (("scaled_fp8", "gguf"), ("int8 rotated", "bf16"), ("nvfp4", "fp16")):
        given = three(comfy, models(high, 0), models(low, 1))
        ours, _ = run_phases(comfy, *given)
        assert relative_error(ours, chain_of(given)) < (0.02 if high.startswith("int") else 1e-2)
        assert_goes_on(comfy, given, ours)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_runs_as_a_chain_and_goes_on(comfy: Any, load_wan: Any, kind: str) -> None:
    given = three(comfy, load_wan(kind, 0), load_wan(kind, 1))
    ours, _ = run_phases(comfy, *given, kind=kind)
    if kind != "ti2v":  # whose second sampler would take noisy latents for the given frame
        assert relative_error(ours, chain_of(given, kind)) < 1e-5
    else:
        assert relative_error(ours[:, :, 0], latent_of(kind)["samples"][:, :, 0]) < 1e-5
    assert_goes_on(comfy, given, ours, kind)


@pytest.mark.parametrize("kind", NETWORKS)
def test_diffusers_network_in_phases(comfy: Any, load_wan: Any, kind: str) -> None:
    """In the place of core's, with core's LoRA on top."""
    expected, _ = run_phases(comfy, *three(comfy, load_wan(kind, 0), load_wan(kind, 1)), kind=kind)
    given = three(comfy, load(comfy, f"{kind}_0.safetensors"), load(comfy, f"{kind}_1.safetensors"))
    ours, report = run_phases(comfy, *given, kind=kind)
    assert relative_error(ours, expected) < 1e-5
    assert [phase.expert for phase in report.phases] == ["high_noise", "high_noise_patched", "low_noise"]
    assert_goes_on(comfy, given, ours, kind)


def test_diffusers_network_beside_cores_is_refused(comfy: Any, load_wan: Any) -> None:
    load_wan()
    for high, low in ((load(comfy, "t2v_0.safetensors"), load_wan("t2v", 1)), (load_wan(), load(comfy, "t2v_0.safetensors"))):
        with pytest.raises(RequestError, match=r"The two experts differ: model is .*, the model of phase 3 is "):
            run_phases(comfy, *three(comfy, high, low))


def test_vace_in_phases(comfy: Any, vace: Any) -> None:
    """One network in three phases, with a LoRA in the second."""
    given = three(comfy, vace, attended(comfy, vace, "sdpa", "sdpa"))
    ours, report = run_phases(comfy, *given)
    assert [phase.expert for phase in report.phases] == ["single", "single_patched", "single_patched_2"]
    assert relative_error(ours, chain_of(given)) < 1e-5
    assert_goes_on(comfy, given, ours)
