"""API prompts of tiny networks, for whole prompts through ComfyUI's validation and executor."""

from typing import Any

import torch
from sampling import SETTINGS, conditions_of


class TinyConditioning:
    """A node in the place of text encoder and WanImageToVideo."""

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"kind": (["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"],)}}

    def make(self, kind: str) -> tuple[list[Any], list[Any]]:
        return conditions_of(kind)


def sampler_prompt(kind: str = "t2v", low_noise: bool = False, **settings: Any) -> dict[str, Any]:
    """API prompt: core's loader and latent, FastVideo Sampler as node "5", FastVideo Run Report."""
    links = {"model": ["1", 0], "positive": ["3", 0], "negative": ["3", 1], "latent": ["4", 0]}
    if low_noise:
        links["low_noise_model"] = ["2", 0]
    inputs = {**SETTINGS, "steps": 4, **links, **settings}
    prompt = {
        "1": node("UNETLoader", unet_name=f"{kind}_0.safetensors", weight_dtype="default"),
        "3": node("TinyConditioning", kind=kind),
        "4": node("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1),
        "5": node("FastVideoSampler", **inputs),
        "6": node("FastVideoRunReport", report=["5", 1]),
    }
    return {**prompt, "2": node("UNETLoader", unet_name=f"{kind}_1.safetensors", weight_dtype="default")} if low_noise else prompt


def guider_prompt(low_noise: bool = False, sampler: str = "dpmpp_2m", **settings: Any) -> dict[str, Any]:
    """API prompt: FastVideo Guider as node "5" in core's SamplerCustomAdvanced, node "9"."""
    prompt = sampler_prompt(low_noise=low_noise, **settings)
    known = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale")
    linked = ("model", "low_noise_model", "positive", "negative")
    inputs = {name: value for name, value in prompt["5"]["inputs"].items() if name in known + linked}
    del prompt["6"]
    return {
        **prompt,
        "5": node("FastVideoGuider", **inputs),
        "6": node("RandomNoise", noise_seed=3),
        "7": node("KSamplerSelect", sampler_name=sampler),
        "8": node("BasicScheduler", model=["1", 0], scheduler="simple", steps=4, denoise=1.0),
        "9": node(
            "SamplerCustomAdvanced", noise=["6", 0], guider=["5", 0], sampler=["7", 0], sigmas=["8", 0], latent_image=["4", 0],
        ),
    }  # fmt: skip


def phases_prompt(**settings: Any) -> dict[str, Any]:
    """API prompt: three phases, a network, the same without guidance and another, in FastVideo Phase Sampler as node "5"."""
    prompt = sampler_prompt(low_noise=True)
    names = ("seed", "steps", "shift", "solver", "guidance_mode", "gate", "guidance_rescale", "positive", "negative", "latent")
    inputs = {name: prompt["5"]["inputs"][name] for name in names}
    settings = {"stop_after_phase": 0, "save_state": "", "resume_state": "none", **settings}
    return {
        **prompt,
        "5": node("FastVideoPhaseSampler", **{"phases": ["9", 0], **inputs, **settings}),
        "7": node("FastVideoPhase", model=["1", 0], until=0.95, guidance_scale=4.0),
        "8": node("FastVideoPhase", model=["1", 0], until=0.9, guidance_scale=1.0, phases=["7", 0]),
        "9": node("FastVideoPhase", model=["2", 0], until=0.0, guidance_scale=3.0, phases=["8", 0]),
    }


def with_inputs(prompt: dict[str, Any], name: str, **inputs: Any) -> dict[str, Any]:
    """The prompt with other inputs of the node of that name."""
    return {**prompt, name: {**prompt[name], "inputs": {**prompt[name]["inputs"], **inputs}}}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


class TinyBadLatent:
    """A latent with three values that are no numbers."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"value": (["nan", "inf"],)}}

    def make(self, value: str) -> tuple[Any]:
        samples = torch.zeros(1, 16, 3, 8, 8)
        samples[0, 0, 0, 0, :3] = float(value)
        return ({"samples": samples},)


class TinyOtherModel:
    """Models that the pack does not sample: of another family, and a Wan whose flow is not from noise."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"kind": (["stable diffusion", "flow rvs"],)}}

    def make(self, kind: str) -> tuple[Any]:
        from comfy import model_base, supported_models
        from comfy.model_patcher import ModelPatcher

        if kind == "flow rvs":
            size = {"dim": 64, "ffn_dim": 128, "num_heads": 1, "num_layers": 1, "text_dim": 32, "in_dim": 16, "out_dim": 16}
            config = supported_models.WAN21_FlowRVS({"image_model": "wan2.1", "model_type": "t2v", **size})
            model = model_base.WAN21_FlowRVS(config)
        else:
            model = model_base.BaseModel(supported_models.SD15({"disable_unet_model_creation": True}))
        return (ModelPatcher(model, torch.device("cpu"), torch.device("cpu")),)


class TinyShortOfMemory:
    """The same MODEL, which ComfyUI now thinks too big to run both branches in one call."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def make(self, model: Any) -> tuple[Any]:
        model.model.memory_usage_factor = 1e12
        return (model,)


BAD_NODES = {node.__name__: node for node in (TinyBadLatent, TinyOtherModel, TinyShortOfMemory)}
