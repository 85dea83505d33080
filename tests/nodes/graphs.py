"""API prompts of tiny networks, for whole prompts through ComfyUI's validation and executor."""

from typing import Any

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
    inputs = {**SETTINGS, "steps": 4, **settings}
    inputs |= {"model": ["1", 0], "positive": ["3", 0], "negative": ["3", 1], "latent": ["4", 0]}
    if low_noise:
        inputs["low_noise_model"] = ["2", 0]
    prompt = {
        "1": _node("UNETLoader", unet_name=f"{kind}_0.safetensors", weight_dtype="default"),
        "3": _node("TinyConditioning", kind=kind),
        "4": _node("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1),
        "5": _node("FastVideoSampler", **inputs),
        "6": _node("FastVideoRunReport", report=["5", 1]),
    }
    return (
        {**prompt, "2": _node("UNETLoader", unet_name=f"{kind}_1.safetensors", weight_dtype="default")} if low_noise else prompt
    )


def guider_prompt(low_noise: bool = False, sampler: str = "dpmpp_2m", **settings: Any) -> dict[str, Any]:
    """API prompt: FastVideo Guider as node "5" in core's SamplerCustomAdvanced, node "9"."""
    prompt = sampler_prompt(low_noise=low_noise, **settings)
    known = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale")
    linked = ("model", "low_noise_model", "positive", "negative")
    inputs = {name: value for name, value in prompt["5"]["inputs"].items() if name in known + linked}
    del prompt["6"]
    return {
        **prompt,
        "5": _node("FastVideoGuider", **inputs),
        "6": _node("RandomNoise", noise_seed=3),
        "7": _node("KSamplerSelect", sampler_name=sampler),
        "8": _node("BasicScheduler", model=["1", 0], scheduler="simple", steps=4, denoise=1.0),
        "9": _node(
            "SamplerCustomAdvanced", noise=["6", 0], guider=["5", 0], sampler=["7", 0], sigmas=["8", 0], latent_image=["4", 0],
        ),
    }  # fmt: skip


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
