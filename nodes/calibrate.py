"""FastVideo Calibrate MagCache: measures a MODEL's ratio table."""

import logging
from typing import Any

from comfy_api.latest import io, ui

from fastvideo_core import GuidanceMode, is_one
from fastvideo_core.step_cache import fingerprint, measured_table

from .checked import checked
from .inputs import USUAL, guidance_inputs, latent_input, model_inputs, prompt_inputs, video_outputs
from .native.cache import with_cache
from .native.calibrate import NativeCalibration, check_one_prompt, told, written
from .native.generation import network_weights
from .native.marks import marks_of, warned
from .native.remote_network import check_here
from .native.sample import sample
from .requests import experts_of, prompt_of, request_of, scales_of
from .sockets import ACCELERATION, NOT_CONNECTED

GUIDANCE = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode")


class FastVideoCalibrateMagCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoCalibrateMagCache",
            display_name="FastVideo Calibrate MagCache",
            category=ACCELERATION,
            description="Makes one full video and measures how the model's steps resemble each other. FastVideo MagCache uses "
            "the result from then on for this model.",
            search_aliases=["magcache calibration", "ratio table", "mag ratios", "calibrate", "magcache"],
            is_output_node=True,
            inputs=[
                *model_inputs(),
                *prompt_inputs(*USUAL),
                latent_input(),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the noise. The ratios depend on it little.",
                ),
                io.Int.Input(
                    "steps", default=40, min=2, max=1000,
                    tooltip="More steps tell more: other step counts are read off between the measured noise levels.",
                ),
                io.Float.Input(
                    "shift", default=5.0, min=0.01, max=100.0, step=0.1,
                    tooltip="As in FastVideo Sampler. MagCache's modes nearest and official want this shift, resampled any.",
                ),
                *(given for given in guidance_inputs() if given.id in GUIDANCE),
            ],
            outputs=[
                *video_outputs("The video that was measured, for VAE Decode."),
                io.String.Output(display_name="text", tooltip="Where the table is, and what MagCache does with it."),
            ],
            hidden=[io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        guidance_scale: float, low_noise_guidance_scale: float, boundary: float, guidance_mode: GuidanceMode,
        low_noise_model: Any = NOT_CONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        experts = experts_of(model, low_noise_model)
        request = request_of(
            seed=seed, steps=steps, shift=shift, guidance_mode=guidance_mode,
            **scales_of(experts, guidance_scale, low_noise_guidance_scale, boundary),
        )  # fmt: skip
        guided = not all(is_one(phase.guidance_scale) for phase in request.settings)
        check_one_prompt(positive=positive, **({"negative": negative} if guided else {}))
        models = list(experts.values())
        for expert in models:
            check_here(expert, "FastVideo Calibrate MagCache")
        recipes = marks_of(models, prompt_of(cls), ("model", "low_noise_model")).of_run(models)
        contradicted = warned(recipes, request.plan(), None)
        meters = {name: NativeCalibration() for name in experts}
        measuring = {name: with_cache(expert, meters[name]) for name, expert in experts.items()}
        video, report = sample(measuring, positive, negative, latent, request, notes=contradicted)
        table = measured_table(
            [fingerprint(network_weights(expert)) for expert in experts.values()],
            request,
            [meter.ratios(report) for meter in meters.values()],
            model.model.get_dtype_inference(),
            report.latent_shape,
        )
        text = "\n".join([told(table, written(table), request), *contradicted])
        logging.info("%s", text)
        return io.NodeOutput(video, report, text, ui=ui.PreviewText(text))


NODES = [FastVideoCalibrateMagCache]
