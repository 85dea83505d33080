"""What a state is refused for, by name: other requests, sizes and weights, and values that contradict each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lora_cases import saved
from state_cases import STEPS, THREE, generation, request, state_after
from tiny_model import model_of

from fastvideo_core import GuidanceSettings, NumericsError, RequestError, WanModel, apply_lora, weights_digest
from fastvideo_core.wan.loading import remove_loras


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 8}, r"seed is 7 in the state and 8 in the request\. Go on with what it was made with, or begin anew"),
        ({"solver": "euler"}, "solver is unipc in the state and euler in the request"),
        ({"steps": 7}, "steps is 6 in the state and 7 in the request; sigmas is 7 values in the state and 8 values"),
        ({"shift": 3.0}, r"sigmas 2 is 0\.9615\d* in the state and 0\.937\d* in the request; sigmas 3 is"),
        ({"guidance_scale": 2.0}, "phases 1 guidance_scale is 3.0 in the state and 2.0 in the request"),
        ({"guidance": GuidanceSettings(mode="sequential")}, "guidance mode is batched in the state and sequential in the"),
        ({"guidance": GuidanceSettings(mode="batched", gate=0.5)}, "guidance gate is 1.0 in the state and 0.5 in the request"),
        ({"guidance": GuidanceSettings(mode="batched", rescale=0.5)}, "guidance rescale is 0.0 in the state and 0.5"),
    ],
)  # fmt: skip
def test_another_request_is_refused_by_what_differs(changes: dict[str, Any], words: str) -> None:
    state = state_after(2)
    with pytest.raises(RequestError, match=f"The state is of another generation: {words}"):
        generation("t2v", request(**changes), state=state)


def test_other_phases_are_refused() -> None:
    state = state_after(2, "t2v two experts", request(phases=THREE))
    moved = (replace(THREE[0], until=0.99), *THREE[1:])
    with pytest.raises(RequestError, match="phases 2 first is 2 in the state and 1 in the request"):
        generation("t2v two experts", request(phases=moved), state=state)
    with pytest.raises(RequestError, match="phases is 3 values in the state and 2 values in the request"):
        generation("t2v two experts", request(phases=(THREE[0], THREE[2])), state=state)


def test_another_size_is_refused() -> None:
    state, model = state_after(2), model_of("t2v")
    size = model.video_size(width=64, height=32, frames=5)
    with pytest.raises(RequestError, match="latent_shape 5 is 6 in the state and 8 in the request"):
        model.generate(request(), model.condition("a cat sits", "blurry", size), size, state=state)


def test_other_weights_are_refused_and_a_copy_is_not(tmp_path: Path) -> None:
    state, model = state_after(2), model_of("t2v")
    same, other, half = tiny.t2v(), tiny.t2v(3), tiny.t2v().to(torch.bfloat16)
    list(generation("t2v", request(), model=replace(model, transformers={"single": same}), state=state))
    for network in (other, half):
        with pytest.raises(RequestError, match=r"weights single weights is \w{24} in the state and \w{24} in the model"):
            generation("t2v", request(), model=replace(model, transformers={"single": network}), state=state)


def test_other_loras_are_refused_by_name_strength_and_content(tmp_path: Path) -> None:
    def model(*strengths: float, kind: str = "everything") -> WanModel:
        network = tiny.i2v_clip()
        for strength in strengths:
            apply_lora(network, saved(kind, tmp_path), strength, name="style")
        return replace(model_of("i2v clip"), transformers={"single": network})

    state = state_after(2, "i2v clip", model=model(0.5))
    again = generation("i2v clip", request(), model=model(0.5), state=state)
    assert len(list(again)) == STEPS - 2
    for other, words in (
        (model(), r"weights single loras 1 \(style\) is .* in the state and none in the model"),
        (model(0.25), r"weights single loras 1 \(style\) strength is 0.5 in the state and 0.25 in the model"),
        (model(0.5, kind="pairs"), r"weights single loras 1 \(style\) digest is \w{24} in the state and \w{24} in the model"),
        (model(0.5, 0.5), r"weights single loras 2 \(style\) is none in the state and"),
    ):
        with pytest.raises(RequestError, match=words):
            generation("i2v clip", request(), model=other, state=state)
    network = model(0.5).transformers["single"]
    remove_loras(network)
    assert (
        state_after(0, "i2v clip", model=replace(model_of("i2v clip"), transformers={"single": network})).about["weights"]
        == (state_after(0, "i2v clip", model=model()).about["weights"])
    )


def test_a_lora_between_making_and_beginning_counts_and_one_that_the_state_has_not_is_refused(tmp_path: Path) -> None:
    model = replace(model_of("i2v clip"), transformers={"single": tiny.i2v_clip()})
    fresh = generation("i2v clip", request(), model=model)
    before = fresh.state()
    resumed = generation("i2v clip", request(), model=model, state=before)
    apply_lora(model.transformers["single"], saved("everything", tmp_path), 0.5, name="style")
    with pytest.raises(RequestError, match=r"loras 1 \(style\) is none in the state"):
        next(resumed)
    next(fresh)
    assert list(fresh.state().about["weights"]["single"]["loras"]) == ["1 (style)"]
    fresh.close()


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(RequestError, match=r"state is 3: give GenerationState\(\.\.\.\), or None"):
        generation("t2v", request(), state=3)


def test_latents_that_are_not_finite_are_no_state() -> None:
    state = state_after(1)
    with pytest.raises(NumericsError, match="What made latents gave"):
        replace(state, latents=state.latents * float("nan"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 7}, "step is 7: it is the next of 6 steps"),
        ({"step": True}, "step is True"),
        ({"step": 1}, "The history holds before, denoised, last: before step 1 solver unipc has denoised, last"),
        ({"solver": {}}, "The history holds nothing"),
        ({"batched": 1}, "batched is 1: it is True, False or None"),
        ({"latents": torch.zeros(1, 16, 2, 4, 5)}, r"latents is torch.float32, \(1, 16, 2, 4, 5\): it must be"),
        ({"difference": torch.zeros(1, 16, 2, 4, 6).double()}, "difference is torch.float64"),
        ({"about": {}}, "It is of version None, and version 1 is read here"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        replace(state_after(2), **changes)


def test_weights_are_told_apart_by_name_dtype_shape_and_values() -> None:
    weight = torch.arange(12.0).view(3, 4)
    changed = weight.clone()
    changed[2, 3] += 1
    others = [
        {"b": weight}, {"a": weight.bfloat16()}, {"a": weight.view(4, 3)}, {"a": changed}, {"a": weight, "b": weight}, {},
        {"a": weight.to(torch.float8_e4m3fn)}, {"a": torch.tensor(0.0)},
    ]  # fmt: skip
    digests = [weights_digest(tensors) for tensors in ({"a": weight}, *others)]
    assert len(set(digests)) == len(digests)
    assert weights_digest({"a": weight.T.contiguous().T, "c": changed}) == weights_digest({"c": changed, "a": weight})
