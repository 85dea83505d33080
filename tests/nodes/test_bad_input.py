"""Bad input through ComfyUI's real validation and executor: each has its own words."""

from typing import Any

import pytest
from graphs import guider_prompt, node, sampler_prompt, with_inputs

from tools.comfy_in_process import PromptFailed, PromptRefused

Prompt = dict[str, Any]


def loaded(kind: str = "t2v_0", low_noise: str | None = None, **settings: Any) -> Prompt:
    prompt = sampler_prompt(low_noise=low_noise is not None, **settings)
    prompt = with_inputs(prompt, "1", unet_name=f"{kind}.safetensors")
    return prompt if low_noise is None else with_inputs(prompt, "2", unet_name=f"{low_noise}.safetensors")


def latent(**inputs: Any) -> Prompt:
    return with_inputs(sampler_prompt(), "4", **inputs)


def conditioned(model: str, kind: str) -> Prompt:
    return with_inputs(loaded(model), "3", kind=kind)


def given_sigmas(text: str) -> Prompt:
    prompt = with_inputs(sampler_prompt(), "5", sigmas=["7", 0])
    return {**prompt, "7": node("ManualSigmas", sigmas=text)}


SAMPLER = {
    "width off the grid": (latent(width=72), r"The latent is 9 x 8: Wan joins 2 x 2.*multiples of 16 pixels"),
    "height off the grid": (latent(height=40), r"The latent is 8 x 5: Wan joins 2 x 2"),
    "channels of another model": (
        with_inputs(loaded("ti2v_0"), "3", kind="ti2v"),
        r"The latent has 16 channels and WAN22 reads 48: make it with Wan22ImageToVideoLatent",
    ),
    "picture instead of video": (
        {**sampler_prompt(), "4": node("EmptyLatentImage", width=64, height=64, batch_size=1)},
        r"The latent has shape \(1, 4, 8, 8\): Wan needs a video latent",
    ),
    "latent with NaN": ({**sampler_prompt(), "4": node("TinyBadLatent", value="nan")}, r"input gave 3 of 3072.*not finite"),
    "latent with infinity": ({**sampler_prompt(), "4": node("TinyBadLatent", value="inf")}, r"LATENT input gave 3 of 3072"),
    "text model with a start image": (
        conditioned("t2v_0", "i2v"),
        r"The positive conditioning holds a start image, and WAN21 is a text-to-video network.*Load an image-to-video model",
    ),
    "image model without a start image": (
        conditioned("i2v_0", "t2v"),
        r"WAN21 is an image-to-video network \(36 input channels\) and the positive conditioning holds no start image",
    ),
    "negative without the start image": (
        {**with_inputs(conditioned("i2v_0", "i2v"), "5", negative=["7", 1]), "7": node("TinyConditioning", kind="t2v")},
        r"the negative conditioning holds no start image",
    ),
    "start image of another length": (
        with_inputs(conditioned("i2v_0", "i2v"), "4", length=5),
        r"The start image was encoded for 3 latent frames and the latent has 2",
    ),
    "image tokens that nothing reads": (
        conditioned("i2v_0", "i2v_clip"),
        r"holds CLIP image tokens, which WAN21 does not read: only Wan 2\.1 image-to-video does",
    ),
    "experts of different kinds": (
        loaded("t2v_0", "i2v_0"),
        r"The two experts differ: model is WAN21 with 16 input channels, 2 blocks.*low_noise_model is WAN21 with 36",
    ),
    "experts of different sizes": (
        loaded("t2v_0", "t2v_wide"),
        r"2 blocks of width 64, low_noise_model is .* 2 blocks of width 128",
    ),
    "no step for the low-noise expert": (
        loaded("t2v_0", "t2v_1", boundary=0.05),
        r"boundary 0\.05 the low-noise expert has no step\. Use more steps",
    ),
    "too few steps for two experts": (loaded("t2v_0", "t2v_1", steps=1), r"With 1 step .* the low-noise expert has no step"),
    "rescale with a gate": (
        sampler_prompt(gate=0.5, guidance_rescale=0.7),
        r"rescale 0\.7 with gate 0\.5.*Set rescale to 0 or gate to 1",
    ),
    "another family": (
        {**sampler_prompt(), "1": node("TinyOtherModel", kind="stable diffusion")},
        r"The model input holds a BaseModel model; this node samples Wan 2\.1 and 2\.2.*use core's KSampler",
    ),
    "Wan with another flow": (
        {**sampler_prompt(), "1": node("TinyOtherModel", kind="flow rvs")},
        r"The model input holds a WAN21_FlowRVS model",
    ),
    "another family as second expert": (
        {**loaded("t2v_0", "t2v_1"), "2": node("TinyOtherModel", kind="stable diffusion")},
        r"The low_noise_model input holds a BaseModel model",
    ),
    "batched without the memory": (
        {
            **with_inputs(sampler_prompt(guidance_mode="batched"), "5", model=["7", 0]),
            "7": node("TinyShortOfMemory", model=["1", 0]),
        },
        r"guidance mode is batched and ComfyUI ran the branches apart.*GiB are free.*Use mode auto or sequential",
    ),
    "weights that are not numbers": (loaded("t2v_nan"), r"The sampler gave 3072 of 3072 latent values that are not finite"),
    "value in the place of a model": (sampler_prompt(model="auto"), r"The model input got 'auto' and needs a connection"),
    "value in the place of a prompt": (sampler_prompt(negative=7), r"The negative input got 7 and needs a connection"),
    "value in the place of a latent": (sampler_prompt(latent={}), r"The latent has shape \(\)"),
    "value in the place of sigmas": (sampler_prompt(sigmas=0.5), r"The sigmas input got 0\.5 and needs a connection"),
    "nothing in the place of a model": (sampler_prompt(model=None), r"The model input got None and needs a connection"),
    "nothing in the place of the second expert": (
        sampler_prompt(low_noise_model=None),
        r"The low_noise_model input got None and needs a connection",
    ),
    "second expert of a model that has one": (
        {**sampler_prompt(low_noise_model=["7", 1]), "7": node("FastVideoLoadDemoWan", model="t2v")},
        r"The low_noise_model input got None and needs a connection",
    ),
    "text of another model": (
        {
            **sampler_prompt(positive=["8", 0], negative=["8", 1]),
            "7": node("FastVideoLoadDemoWan", model="t2v"),
            "8": node("FastVideoTextEncode", clip=["7", 2], positive="a red circle", negative=""),
        },
        r"The positive conditioning's text is 128 wide, and WAN21 reads 32: it was encoded for another model",
    ),
    "noise levels that rise": (given_sigmas("1.0, 0.5, 0.7, 0.0"), r"The sigmas must strictly decrease"),
    "noise levels of another model": (
        given_sigmas("14.6, 5.0, 0.0"),
        r"The sigmas run from 14\.6 to 0: Wan's noise levels lie in 0\.\.1",
    ),
    "one noise level": (given_sigmas("1.0"), r"1 sigmas were given: at least 2 are needed"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAMPLER)
def test_sampler_says_what_is_wrong(tiny: Any, what: str) -> None:
    prompt, words = SAMPLER[what]
    tiny.reset()
    with pytest.raises(PromptFailed, match=rf"(?s)^FastVideoSampler: fastvideo_core\.errors\.\w+Error: .*{words}"):
        tiny.run(prompt)


GUIDER = {
    "width off the grid": ("4", {"width": 72}, r"The latent is 9 x 8"),
    "start image of another length": ("4", {"length": 5}, r"The start image was encoded for 3 latent frames"),
    "no step for the low-noise expert": ("5", {"boundary": 0.05}, r"the low-noise expert has no step"),
    "rescale with a gate": ("5", {"guidance_rescale": 0.7, "gate": 0.5}, r"Set rescale to 0 or gate to 1"),
    "no noise level": ("8", {"denoise": 0.0}, r"0 sigmas were given: at least 2 are needed"),
    "part of the noise levels": ("8", {"denoise": 0.4}, r"the high-noise expert has no step"),
}


@pytest.mark.parametrize("what", GUIDER)
def test_guider_says_what_is_wrong(tiny: Any, what: str) -> None:
    name, inputs, words = GUIDER[what]
    prompt = guider_prompt(low_noise=True)
    for loader, file in (("1", "i2v_0"), ("2", "i2v_1")):
        prompt = with_inputs(prompt, loader, unet_name=f"{file}.safetensors")
    tiny.reset()
    with pytest.raises(PromptFailed, match=rf"(?s): fastvideo_core\.errors\.\w+Error: .*{words}"):
        tiny.run(with_inputs(with_inputs(prompt, "3", kind="i2v"), name, **inputs), {"latent": ("9", 0)})


REFUSED = {
    "unknown solver": ({"solver": "magic"}, r"Value not in list: solver: 'magic'"),
    "no steps": ({"steps": 0}, r"Value 0 smaller than min of 1: steps"),
    "boundary outside": ({"boundary": 1.5}, r"Value 1\.5 bigger than max of 0\.99: boundary"),
    "latent in the place of a model": ({"model": ["4", 0]}, r"Return type mismatch between linked nodes: model"),
    "no seed": ({"seed": None}, r"seed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_comfyui_refuses_values_outside_the_schema(tiny: Any, what: str) -> None:
    inputs, words = REFUSED[what]
    with pytest.raises(PromptRefused, match=rf"node 5 \(FastVideoSampler\): .*{words}"):
        tiny.run(with_inputs(sampler_prompt(), "5", **inputs))
