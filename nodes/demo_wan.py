"""FastVideo Load Demo Wan: the tiny Wan that ships with the pack."""

from comfy_api.latest import io

from .checked import checked
from .native.demo import EXPERTS, demo_file, load_clip, load_expert, load_first_frame, load_vae
from .sockets import LOADING


class FastVideoLoadDemoWan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoLoadDemoWan",
            display_name="FastVideo Load Demo Wan",
            category=LOADING,
            description="A tiny Wan that ships with the pack and runs on any CPU: shapes that move, 64 x 64, 17 frames.",
            search_aliases=["demo", "example model", "tiny wan", "test model", "wan", "load model"],
            inputs=[
                io.Combo.Input(
                    "model", options=list(EXPERTS), default="t2v",
                    tooltip="t2v: text to video. i2v: image to video. two experts: a high-noise and a low-noise one, as Wan 2.2.",
                ),
                io.Float.Input(
                    "lora_strength", default=0.0, min=0.0, max=2.0, step=0.05, optional=True,
                    tooltip="1: with the LoRAs by which t2v and two experts take 4 or 2 steps at guidance scale 1. 0: without.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer; the high-noise expert of the two."),
                io.Model.Output(display_name="low_noise_model", tooltip="The low-noise expert; not for the other models."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, for FastVideo Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE, for VAE Decode and WanImageToVideo."),
                io.Image.Output(display_name="first_frame", tooltip="A picture for i2v to start from: a red circle on navy."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model: str, lora_strength: float = 0.0) -> io.NodeOutput:
        experts = [load_expert(name, lora_strength) for name in EXPERTS[model]]
        low_noise = experts[1] if len(experts) == 2 else None
        clip, vae = load_clip(demo_file("umt5")), load_vae(demo_file("wan_vae"))
        return io.NodeOutput(experts[0], low_noise, clip, vae, load_first_frame())


NODES = [FastVideoLoadDemoWan]
