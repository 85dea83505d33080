"""Inputs and outputs that several nodes share, with the same words."""

from comfy_api.latest import io

from .native.part import LAST
from .native.preset import AUTHORS, GIVEN
from .native.state import NONE, state_names
from .sockets import RunReportSocket

EXPERT_OUTPUT = "For FastVideo Sampler, FastVideo Guider and core's samplers."


def expert_input() -> io.Input:
    """Of nodes that change what a MODEL does."""
    return io.Model.Input("model", tooltip="Wan diffusion model; each expert of Wan 2.2 gets a node of its own.")


def enabled_input(optional: bool = False) -> io.Input:
    """optional: where it came after the node's first version."""
    return io.Boolean.Input("enabled", default=True, optional=optional, tooltip="Off: the model goes through as it came.")


def on_cpu_input(held: str) -> io.Input:
    """held: what a step cache holds, and what that costs."""
    return io.Boolean.Input(
        "residuals_on_cpu", default=False,
        tooltip=f"Keeps what is reused in the computer's memory: saves GPU memory ({held}.",
    )  # fmt: skip


FIRST = "Wan diffusion model; the high-noise expert where there are two."


def model_inputs(optional: bool = False, told: str = FIRST) -> list[io.Input]:
    """One expert, or two."""
    return [
        io.Model.Input("model", optional=optional, tooltip=told),
        io.Model.Input("low_noise_model", optional=True, tooltip="Low-noise expert of Wan 2.2 T2V/I2V A14B."),
    ]


def prompt_inputs(*told: str) -> list[io.Input]:
    """told: of either prompt."""
    return [io.Conditioning.Input(name, tooltip=words) for name, words in zip(("positive", "negative"), told, strict=True)]


SHOWN = ("What the video shows.", "What it must not show; only read where the guidance scale is not 1.")
USUAL = ("A prompt of the kind that you mostly use.", "The negative prompt that you mostly use.")


def latent_input(told: str = "Size of the video, and for TI2V 5B the given first frame with its mask.") -> io.Input:
    return io.Latent.Input("latent", tooltip=told)


def video_outputs(told: str = "The video's latents, for VAE Decode.") -> list[io.Output]:
    return [
        io.Latent.Output(display_name="latent", tooltip=told),
        RunReportSocket.Output(display_name="report", tooltip="What ran, for FastVideo Run Report."),
    ]


def run_inputs() -> list[io.Input]:
    """What samplers ask about a whole run, in this order for good."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="The same seed and settings give the same video.",
        ),
        io.Int.Input(
            "steps", default=20, min=1, max=1000, tooltip="Denoising steps: 20 to 50; 4 to 8 for distilled models.",
        ),
        io.Float.Input(
            "shift", default=5.0, min=0.01, max=100.0, step=0.1,
            tooltip="Moves the noise levels towards noise, in the place of a ModelSamplingSD3 node. Wan 2.1: 1.3B 8, "
            "14B 5, I2V 480P 3; Wan 2.2: T2V 12, others 5.",
        ),
        io.Combo.Input(
            "solver", options=["unipc", "euler", "dpmpp_2m", "dmd", "euler_float64", "dmd_float64"], default="unipc",
            tooltip="unipc is what Wan's authors use. euler is for few-step LoRAs, dmd for few-step checkpoints such as FastWan; "
            "float64 keeps what rounding takes off between steps, as TurboDiffusion does.",
        ),
    ]  # fmt: skip


def sigmas_input() -> io.Input:
    return io.Sigmas.Input(
        "sigmas", optional=True, tooltip="Noise levels to use instead of those that steps and shift give.",
    )  # fmt: skip


def settings_input() -> io.Input:
    return io.Combo.Input(
        "settings", options=[GIVEN, AUTHORS], default=GIVEN, optional=True,
        tooltip="as the model's authors: steps, shift, solver, guidance scales and boundary are those that the model was "
        "published or distilled with, whatever the inputs say; the report names them.",
    )  # fmt: skip


def state_inputs() -> list[io.Input]:
    """Where a run may end early, and go on."""
    return [
        io.String.Input(
            "save_state", default="", optional=True, advanced=True,
            tooltip="A name under which the run is kept after each phase, and where it is cancelled or fails, in "
            "models/fastvideo_states. Empty: it is not kept.",
        ),
        io.Combo.Input(
            "resume_state", options=[NONE, *state_names()], default=NONE, optional=True, advanced=True,
            tooltip="A kept run to go on from, with all other inputs as they were: the video is the same as without a break.",
        ),
    ]  # fmt: skip


def guidance_inputs() -> list[io.Input]:
    """What the sampler and the guider ask about guidance, in this order for good: saved workflows hold widgets by place."""
    return [
        io.Float.Input(
            "guidance_scale", default=5.0, min=1.0, max=30.0, step=0.1,
            tooltip="How strongly the video follows the positive prompt; with two experts, the high-noise one's. "
            "1 is off and halves the work. Wan 2.1: 5 to 6, Wan 2.2 T2V: 4, I2V: 3.5, TI2V 5B: 5.",
        ),
        io.Float.Input(
            "low_noise_guidance_scale", default=3.0, min=1.0, max=30.0, step=0.1,
            tooltip="Guidance scale of the low-noise expert; without a second model it is not used. Wan 2.2 T2V: 3, I2V: 3.5.",
        ),
        io.Float.Input(
            "boundary", default=0.875, min=0.01, max=0.99, step=0.005, round=0.0001,
            tooltip="Noise level below which the low-noise expert takes over; without a second model it is not used. "
            "Wan 2.2 T2V: 0.875, I2V: 0.9.",
        ),
        io.Combo.Input(
            "guidance_mode", options=["auto", "batched", "sequential"], default="auto",
            tooltip="auto: ComfyUI runs both branches in one call when memory allows. batched: one call, or an error that says "
            "what is missing. sequential: two calls, least memory. The video is the same up to rounding.",
        ),
        io.Float.Input(
            "gate", default=1.0, min=0.0, max=1.0, step=0.05,
            tooltip="Fraction of the steps that run the negative branch; after it the last difference between the branches is "
            "reused, which saves up to half of each later step and changes the video slightly. 1 is off. Each expert starts "
            "with a fresh one.",
        ),
        io.Float.Input(
            "guidance_rescale", default=0.0, min=0.0, max=1.0, step=0.05, advanced=True,
            tooltip="Keeps the guided prediction's contrast near the positive branch's: 0 is off, 0.7 is usual against "
            "overexposure at high guidance scales. Not together with a gate below 1.",
        ),
    ]  # fmt: skip


def part_inputs() -> list[io.Input]:
    """Optional, for prompts that were saved before there were any."""
    return [
        io.Combo.Input(
            "add_noise", options=["enable", "disable"], default="enable", optional=True, advanced=True,
            tooltip="disable: the latent comes from a sampler that left noise in it, and this one goes on from there.",
        ),
        io.Int.Input(
            "start_at_step", default=0, min=0, max=LAST, optional=True, advanced=True,
            tooltip="First step of the run that this sampler makes, counted from 0. All samplers of a chain get the same steps "
            "and shift.",
        ),
        io.Int.Input(
            "end_at_step", default=LAST, min=0, max=LAST, optional=True, advanced=True,
            tooltip="Step before which this sampler ends, and where the next one starts. Beyond the last one: to the end.",
        ),
        io.Combo.Input(
            "return_with_leftover_noise", options=["disable", "enable"], default="disable", optional=True, advanced=True,
            tooltip="enable: what is left of the noise at end_at_step stays in the latent, for the next sampler. disable: the "
            "last step removes it.",
        ),
    ]  # fmt: skip
